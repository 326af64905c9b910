"""A vCPU enters the guest (x86.c: vcpu_enter_guest).

It says first that it is in the guest, and then looks for requests once more: so one that is made meanwhile is
seen, or else its maker sees that a kick is needed.
"""

from collections.abc import Callable

from mmu_model.kvm.requests import leave_guest_mode
from mmu_model.kvm.roots import serve_requests
from mmu_model.kvm.task import Steps
from mmu_model.kvm.vcpu import KvmVcpu, VcpuMode


def vcpu_enter_guest(vcpu: KvmVcpu, prepare: Callable[[], None]) -> Steps[None]:
    """Do what was requested; then be in the guest, until :func:`leave_guest_mode`.

    Parameters
    ----------
    vcpu :
        It is outside.
    prepare :
        Loads and flushes the processor as was requested.

    """
    while True:
        yield from serve_requests(vcpu)
        prepare()
        yield "is about to enter the guest"
        enter_guest_mode(vcpu)
        yield "looks for requests once more"
        if not has_exit_request(vcpu):
            return
        leave_guest_mode(vcpu)


def enter_guest_mode(vcpu: KvmVcpu) -> None:
    """From now on who makes a request has to kick; interrupts wait until the processor is in the guest."""
    vcpu.mode = VcpuMode.IN_GUEST_MODE


def has_exit_request(vcpu: KvmVcpu) -> bool:
    """`kvm_vcpu_exit_request`: something was requested since the vCPU looked last."""
    return bool(vcpu.requests) or vcpu.mode is VcpuMode.EXITING_GUEST_MODE
