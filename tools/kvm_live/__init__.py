"""Boots a real kernel in QEMU, runs scenarios on its KVM, and records what its MMUs built.

``packages`` fetches kernels, ``initrd`` packs what they boot, ``machine`` runs them and follows the
protocol of the programs under ``guest``; ``memory``, ``btf``, ``structures``, ``pages``, ``slots`` and ``vm``
decode KVM's data out of the machine's memory; ``checks`` and ``trace`` hold it against what KVM says itself;
``record`` puts all together.
"""
