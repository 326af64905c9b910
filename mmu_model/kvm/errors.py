"""What a model of KVM raises where the kernel would warn, or refuse a call."""


class KvmBug(Exception):
    """A state that KVM holds to be impossible: where the kernel has WARN_ON, BUG_ON or lockdep."""


class KvmError(Exception):
    """A call of the process that KVM refuses; the VM is as it was before."""


class VmEntryFailure(KvmError):
    """VMLAUNCH or VMRESUME of a guest hypervisor fails, or an operand of INVEPT or INVVPID is none.

    VM-instruction error 7 or 28 (SDM vol. 3, 31.4). The hypervisor goes on as if nothing had happened.
    """
