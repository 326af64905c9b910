/* Makes a VM of a compiled scenario: memory, memslots, one vCPU and its registers. */
#include "guest.h"
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LARGE_PAGE	(2ul << 20)
#define JUMP_RBP	0xe5ff		/* jmp *%rbp (%ebp, %bp): what may be fetched anywhere */
#define LONG_MODE	0x400		/* EFER.LMA */

extern const uint8_t interpreter_real[], interpreter_smm[], interpreter_32[], interpreter_64[];
extern const uint8_t user_code_32[], user_code_64[];

void load_program(struct program *program, const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY);
	uint64_t *at;

	if (fd < 0 || fstat(fd, &st))
		fail("%s", path);
	at = malloc(st.st_size);
	if (read(fd, at, st.st_size) != st.st_size)
		fail("%s", path);
	close(fd);
	program->head = (struct header *)at;
	program->large = (uint64_t *)(program->head + 1);
	program->slots = (struct call *)(program->large + 2 * program->head->n_large);
	program->words = (uint64_t *)(program->slots + program->head->n_slots);
	program->calls = (struct call *)(program->words + 2 * program->head->n_words);
	if ((uint8_t *)(program->calls + program->head->n_calls) != (uint8_t *)at + st.st_size)
		fail("%s: not a compiled scenario", path);
}

static uint64_t large_memory(void)
{
	unsigned long kilobytes, sum = 0;
	char line[256];
	FILE *maps = fopen("/proc/self/smaps", "r");

	while (maps && fgets(line, sizeof(line), maps))
		if (sscanf(line, "AnonHugePages: %lu", &kilobytes) == 1)
			sum += kilobytes;
	fclose(maps);
	return sum << 10;
}

/* How much of a part of the memory is made of whole large pages. */
static uint64_t whole_large_pages(uint64_t place, uint64_t size)
{
	uint64_t first = (place + LARGE_PAGE - 1) / LARGE_PAGE, end = (place + size) / LARGE_PAGE;

	return end > first ? (end - first) * LARGE_PAGE : 0;
}

static void make_memory(struct machine *m, const struct program *program)
{
	const struct header *head = program->head;
	const uint64_t *large = program->large, *words = program->words;
	uint64_t i, wanted = 0;
	uint8_t *memory;
	uint16_t *fill;

	/* Aligned by hand: a fixed address could lie where the process has something already. */
	memory = mmap(NULL, head->backing + LARGE_PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail("no memory for the guest");
	memory += -(uintptr_t)memory & (LARGE_PAGE - 1);
	madvise(memory, head->backing, MADV_NOHUGEPAGE);
	for (i = 0; i < head->n_large; i++) {
		madvise(memory + large[2 * i], large[2 * i + 1], MADV_HUGEPAGE);
		wanted += whole_large_pages(large[2 * i], large[2 * i + 1]);
	}
	for (fill = (uint16_t *)memory; fill < (uint16_t *)(memory + head->backing); fill++)
		*fill = JUMP_RBP;
	if (wanted && large_memory() < wanted)
		fail("the host has no large pages to give; start it with more memory");
	memset(memory, 0, MACHINE_SIZE);
	for (i = 0; i < head->n_words; i++)
		memcpy(memory + words[2 * i], &words[2 * i + 1], 8);
	memcpy(memory + KERNEL_CODE, head->efer & LONG_MODE ? interpreter_64 :
	       head->cr0 & 1 ? interpreter_32 : interpreter_real, 4096);
	memcpy(memory + USER_CODE, head->efer & LONG_MODE ? user_code_64 : user_code_32, 4096);
	if (head->smm)		/* SMM_STEPS lies in the same page, after the code */
		memcpy(memory + SMM_CODE, interpreter_smm, SMM_STEPS - SMM_CODE);
	m->memory = memory;
	printf("@@MEMORY %lx\n", (unsigned long)memory);
}

void set_slot(struct machine *m, const uint64_t *args)
{
	struct kvm_userspace_memory_region region = {
		.slot = args[0], .flags = args[1], .guest_phys_addr = args[2],
		.memory_size = args[3], .userspace_addr = (uintptr_t)m->memory + args[4],
	};

	if (ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region))
		fail("KVM refuses memslot %u at %llx", region.slot, region.guest_phys_addr);
	m->slot_pages[args[0] % MAX_SLOTS] = args[3] >> 12;
}

static void create_vm(struct machine *m, const struct program *program)
{
	struct kvm_enable_cap manual = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
					 .args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE } };
	uint64_t i;

	m->kvm = open("/dev/kvm", O_RDWR);
	if (m->kvm < 0)
		fail("no /dev/kvm");
	m->vm = ioctl(m->kvm, KVM_CREATE_VM, 0);
	if (m->vm < 0)
		fail("KVM_CREATE_VM");
	if (program->head->manual_dirty_log && ioctl(m->vm, KVM_ENABLE_CAP, &manual))
		fail("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2");
	for (i = 0; i < program->head->n_slots; i++)
		set_slot(m, program->slots[i].args);
	m->vcpu = ioctl(m->vm, KVM_CREATE_VCPU, 0);
	if (m->vcpu < 0)
		fail("KVM_CREATE_VCPU");
	m->run = mmap(NULL, ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED,
		      m->vcpu, 0);
	if (m->run == MAP_FAILED)
		fail("kvm_run");
}

static void set_cpuid(const struct machine *m, const struct header *head)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 100 * sizeof(cpuid->entries[0]));
	unsigned i;

	cpuid->nent = 100;
	if (ioctl(m->kvm, KVM_GET_SUPPORTED_CPUID, cpuid))
		fail("KVM_GET_SUPPORTED_CPUID");
	for (i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 0x80000008 && head->maxphyaddr)
			cpuid->entries[i].eax = (cpuid->entries[i].eax & ~0xffu) | head->maxphyaddr;
	if (ioctl(m->vcpu, KVM_SET_CPUID2, cpuid))
		fail("KVM_SET_CPUID2");
}

static struct kvm_segment flat(const struct header *head, int type, int selector)
{
	int is_long = !!(head->efer & LONG_MODE), code = type == 0xb;
	struct kvm_segment s = {
		.limit = 0xffffffff, .present = 1, .s = 1, .g = 1, .type = type, .selector = selector,
		.db = head->cr0 & 1 && !(code && is_long), .l = code && is_long,
	};
	return s;
}

static void set_registers(const struct machine *m, const struct header *head)
{
	struct kvm_regs regs = { .rflags = 2, .rip = KERNEL_CODE, .rsp = STACK_TOP, .rsi = STEPS,
				 .rdi = KERNEL_CODE + HANDLERS };
	struct { struct kvm_msrs head; struct kvm_msr_entry entries[3]; } msrs = {
		.head.nmsrs = head->nested ? 3 : 2,
		.entries = { { .index = 0xc0000081, .data = STAR }, { .index = 0xc0000082, .data = DONE },
			     { .index = 0xc0010117, .data = HOST_SAVE } },
	};
	struct kvm_sregs s;

	if (ioctl(m->vcpu, KVM_GET_SREGS, &s))
		fail("KVM_GET_SREGS");
	s.cs = flat(head, 0xb, 8);
	s.ds = s.es = s.fs = s.gs = s.ss = flat(head, 3, 16);
	s.gdt.base = DESCRIPTORS + GDT;
	s.gdt.limit = GDT_LIMIT;
	s.idt.base = DESCRIPTORS + IDT;
	s.idt.limit = IDT_LIMIT;
	s.tr = (struct kvm_segment){ .base = DESCRIPTORS + TSS, .limit = 0x67, .type = 11, .present = 1,
				     .selector = 0x18 };
	s.cr0 = head->cr0;
	s.cr3 = head->cr3;
	s.cr4 = head->cr4;
	s.efer = head->efer;
	if (ioctl(m->vcpu, KVM_SET_SREGS, &s))
		fail("KVM refuses cr0 %lx cr4 %lx efer %lx", head->cr0, head->cr4, head->efer);
	if (ioctl(m->vcpu, KVM_SET_MSRS, &msrs) != (int)msrs.head.nmsrs)
		fail("KVM_SET_MSRS");
	if (ioctl(m->vcpu, KVM_SET_REGS, &regs))
		fail("KVM_SET_REGS");
}

void make_vm(struct machine *m, const struct program *program)
{
	make_memory(m, program);
	create_vm(m, program);
	set_cpuid(m, program->head);
	set_registers(m, program->head);
}
