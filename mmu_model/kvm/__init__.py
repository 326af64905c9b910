"""What both of KVM's MMUs share: VM, vCPU, memslots, roles, sptes, shadow pages."""
