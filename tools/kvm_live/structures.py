"""Where the members of KVM's structures lie, from BTF."""

from __future__ import annotations

from .btf import Btf

HASH_BUCKETS = 4096  # KVM_NUM_MMU_PAGES; BTF tells it only where mmu_page_hash is an array

# NAME, or NAME=PATH|PATH: of the paths the first that exists is taken, so older names stand behind
FIELDS = {
    "kvm_mmu_page": """
        link hash_link tdp_mmu_page unsync mmu_valid_gen tdp_mmu_scheduled_root_to_zap role gfn spt
        shadowed_translation root_count unsync_children parent_ptes unsync_child_bitmap write_flooding_count
        nx_huge_page_disallowed=nx_huge_page_disallowed|lpage_disallowed
        possible_nx_huge_page_link=possible_nx_huge_page_link|lpage_disallowed_link""",
    "kvm": """
        vm_list vcpus=vcpu_array.xa_head memslots mm
        n_used_mmu_pages=arch.n_used_mmu_pages n_max_mmu_pages=arch.n_max_mmu_pages
        indirect_shadow_pages=arch.indirect_shadow_pages mmu_valid_gen=arch.mmu_valid_gen
        active_mmu_pages=arch.active_mmu_pages tdp_mmu_roots=arch.tdp_mmu_roots
        tdp_mmu_pages=arch.tdp_mmu_pages shadow_root_allocated=arch.shadow_root_allocated
        mmu_page_hash=arch.mmu_page_hash""",
    "kvm_vcpu": """
        mmu=arch.mmu root_mmu=arch.root_mmu guest_mmu=arch.guest_mmu mmio_gva=arch.mmio_gva
        mmio_access=arch.mmio_access mmio_gfn=arch.mmio_gfn mmio_gen=arch.mmio_gen""",
    "kvm_mmu": "root root_role cpu_role prev_roots pae_root pml4_root pml5_root",
    "kvm_mmu_root_info": "pgd hpa",
    "kvm_memslots": "generation id_hash node_idx",
    "kvm_memory_slot": """
        id_node base_gfn npages dirty_bitmap userspace_addr flags id as_id rmap=arch.rmap
        lpage_info=arch.lpage_info gfn_write_track=arch.gfn_write_track|arch.gfn_track""",
    "pte_list_desc": "more spte_count sptes",
    "xa_node": "slots",
    "page": "private",
    "mm_struct": "pgd",
}


class Structures:
    """The offsets for one kernel. Raises BtfError where a structure is not as any known kernel has it."""

    def __init__(self, btf: Btf) -> None:
        self.fields = {
            struct: {
                name: btf.field(struct, *(paths or name).split("|"))
                for name, _, paths in (word.partition("=") for word in words.split())
            }
            for struct, words in FIELDS.items()
        }
        self.size = {struct: btf.find(struct).ref for struct in FIELDS}
        self.role_bits = tuple(
            (member.name, member.bit, member.width)
            for member in btf.members(btf.find("kvm_mmu_page_role"))
            if member.width
        )
        buckets = self.fields["kvm"]["mmu_page_hash"][1]
        self.hash_in_place = buckets.kind == "ARRAY"
        self.hash_buckets = buckets.length if self.hash_in_place else HASH_BUCKETS
        self.tdp_pages_listed = self.fields["kvm"]["tdp_mmu_pages"][1].name == "list_head"
        self.address_spaces = self.fields["kvm"]["memslots"][1].length
        self.prev_roots = self.fields["kvm_mmu"]["prev_roots"][1].length
        self.list_entries = self.fields["pte_list_desc"]["sptes"][1].length
        self.id_buckets = self.fields["kvm_memslots"]["id_hash"][1].length
        self.page_sizes = self.fields["kvm_memory_slot"]["rmap"][1].length

    def at(self, struct: str, name: str) -> int:
        """Offset in bytes."""
        return self.fields[struct][name][0]
