"""What KVM does below and between the statements: that no guest ever sees it, what it refuses, its bookkeeping."""
