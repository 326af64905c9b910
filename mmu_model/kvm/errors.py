"""What a model of KVM raises where the kernel would warn, or refuse a call."""


class KvmBug(Exception):
    """A state that KVM holds to be impossible: where the kernel has WARN_ON, BUG_ON or lockdep."""


class KvmError(Exception):
    """A call of the process that KVM refuses; the VM is as it was before."""
