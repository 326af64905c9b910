"""An executable reference of x86 paging hardware and of KVM's two MMUs."""
