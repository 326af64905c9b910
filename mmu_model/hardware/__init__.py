"""The processor: physical memory, registers, entry formats, walks. Knows nothing of KVM."""
