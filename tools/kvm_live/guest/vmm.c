/*
 * A small user of /dev/kvm: one VM, one vCPU, one compiled scenario.
 *
 * It runs the guest from one exit of the interpreter to the next, prints what each step gave, and does what the
 * step list wants done by userspace. At a snapshot it prints "@@SNAPSHOT ..." and waits for a line on
 * stdin, so that whoever listens can look at memory while nothing moves.
 */
#include "guest.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LARGE_PAGE	(2ul << 20)
#define JUMP_RBP	0xe5ff		/* jmp *%rbp (%ebp, %bp): what may be fetched anywhere */
#define MAX_SLOTS	64
#define SECONDS		20

/* The head of a compiled scenario: mmu_model/scenario/compile.py, Program.to_bytes. */
struct header {
	char magic[8];
	uint64_t mode, cr0, cr3, cr4, efer, maxphyaddr;
	uint64_t manual_dirty_log, nx_huge_pages, nested, smm;
	uint64_t backing, n_large, n_slots, n_words, n_calls;
};

struct call {
	uint64_t op, step, args[5];
};

static int kvm, vm, vcpu, trace = -1;
static struct kvm_run *run;
static struct header *head;
static uint64_t *large, *words;
static struct call *slots, *calls;
static uint8_t *memory;
static uint64_t slot_pages[MAX_SLOTS];

extern const uint8_t interpreter_real[], interpreter_smm[], interpreter_32[], interpreter_64[];
extern const uint8_t user_code_32[], user_code_64[];

void fail(const char *format, ...)
{
	va_list args;

	printf("@@FAIL ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("%s%s\n", errno ? ": " : "", errno ? strerror(errno) : "");
	fflush(stdout);
	_exit(1);
}

static void load(const char *path)
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
	head = (struct header *)at;
	large = (uint64_t *)(head + 1);
	slots = (struct call *)(large + 2 * head->n_large);
	words = (uint64_t *)(slots + head->n_slots);
	calls = (struct call *)(words + 2 * head->n_words);
	if ((uint8_t *)(calls + head->n_calls) != (uint8_t *)at + st.st_size)
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

static void make_memory(void)
{
	uint64_t i, wanted = 0;
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
	memcpy(memory + KERNEL_CODE, head->efer & 0x400 ? interpreter_64 :
	       head->cr0 & 1 ? interpreter_32 : interpreter_real, 4096);
	memcpy(memory + USER_CODE, head->efer & 0x400 ? user_code_64 : user_code_32, 4096);
	if (head->smm)		/* SMM_STEPS lies in the same page, after the code */
		memcpy(memory + SMM_CODE, interpreter_smm, SMM_STEPS - SMM_CODE);
	printf("@@MEMORY %lx\n", (unsigned long)memory);
}

static void set_slot(const uint64_t *args)
{
	struct kvm_userspace_memory_region region = {
		.slot = args[0], .flags = args[1], .guest_phys_addr = args[2],
		.memory_size = args[3], .userspace_addr = (uintptr_t)memory + args[4],
	};

	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		fail("KVM refuses memslot %u at %llx", region.slot, region.guest_phys_addr);
	slot_pages[args[0] % MAX_SLOTS] = args[3] >> 12;
}

static void create_vm(void)
{
	struct kvm_enable_cap manual = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
					 .args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE } };
	uint64_t i;

	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		fail("no /dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		fail("KVM_CREATE_VM");
	if (head->manual_dirty_log && ioctl(vm, KVM_ENABLE_CAP, &manual))
		fail("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2");
	for (i = 0; i < head->n_slots; i++)
		set_slot(slots[i].args);
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		fail("KVM_CREATE_VCPU");
	run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		fail("kvm_run");
}

static void set_cpuid(void)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 100 * sizeof(cpuid->entries[0]));
	unsigned i;

	cpuid->nent = 100;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid))
		fail("KVM_GET_SUPPORTED_CPUID");
	for (i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 0x80000008 && head->maxphyaddr)
			cpuid->entries[i].eax = (cpuid->entries[i].eax & ~0xffu) | head->maxphyaddr;
	if (ioctl(vcpu, KVM_SET_CPUID2, cpuid))
		fail("KVM_SET_CPUID2");
}

static struct kvm_segment flat(int type, int selector)
{
	int is_long = !!(head->efer & 0x400), code = type == 0xb;
	struct kvm_segment s = {
		.limit = 0xffffffff, .present = 1, .s = 1, .g = 1, .type = type, .selector = selector,
		.db = head->cr0 & 1 && !(code && is_long), .l = code && is_long,
	};
	return s;
}

static void set_registers(void)
{
	struct kvm_regs regs = { .rflags = 2, .rip = KERNEL_CODE, .rsp = STACK_TOP, .rsi = STEPS,
				 .rdi = KERNEL_CODE + HANDLERS };
	struct { struct kvm_msrs head; struct kvm_msr_entry entries[3]; } msrs = {
		.head.nmsrs = head->nested ? 3 : 2,
		.entries = { { .index = 0xc0000081, .data = STAR }, { .index = 0xc0000082, .data = DONE },
			     { .index = 0xc0010117, .data = HOST_SAVE } },
	};
	struct kvm_sregs s;

	if (ioctl(vcpu, KVM_GET_SREGS, &s))
		fail("KVM_GET_SREGS");
	s.cs = flat(0xb, 8);
	s.ds = s.es = s.fs = s.gs = s.ss = flat(3, 16);
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
	if (ioctl(vcpu, KVM_SET_SREGS, &s))
		fail("KVM refuses cr0 %lx cr4 %lx efer %lx", head->cr0, head->cr4, head->efer);
	if (ioctl(vcpu, KVM_SET_MSRS, &msrs) != (int)msrs.head.nmsrs)
		fail("KVM_SET_MSRS");
	if (ioctl(vcpu, KVM_SET_REGS, &regs))
		fail("KVM_SET_REGS");
}

/* What it holds already is of the VM before. */
static void open_trace(void)
{
	static char rest[1 << 16];

	trace = open("/sys/kernel/tracing/trace_pipe", O_RDONLY | O_NONBLOCK);
	while (read(trace, rest, sizeof(rest)) > 0)
		;
}

static void tell_trace(void)
{
	static char text[1 << 16];
	ssize_t length;
	char *line;

	while ((length = read(trace, text, sizeof(text) - 1)) > 0) {
		text[length] = 0;	/* trace_pipe gives whole lines */
		for (line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
			printf("@@TRACE %s\n", line);
	}
}

static void snapshot(uint64_t number)
{
	static struct { struct kvm_nested_state state; char rest[8192]; } nested;
	struct kvm_vcpu_events events;
	struct kvm_sregs s;
	char line[16];

	nested.state.size = sizeof(nested);
	if (ioctl(vcpu, KVM_GET_SREGS, &s) || ioctl(vcpu, KVM_GET_VCPU_EVENTS, &events) ||
	    ioctl(vcpu, KVM_GET_NESTED_STATE, &nested))
		fail("cannot read the registers");
	tell_trace();
	printf("@@SNAPSHOT %lu %llx %llx %llx %llx %d %d\n", number, s.cr0, s.cr3, s.cr4, s.efer,
	       !!events.smi.smm, !!(nested.state.flags & KVM_STATE_NESTED_GUEST_MODE));
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		_exit(1);
}

static void get_dirty(uint64_t step, const uint64_t *args)
{
	uint64_t pages = slot_pages[args[0] % MAX_SLOTS], i;
	uint64_t *bitmap = calloc(pages / 64 + 1, 8);
	struct kvm_dirty_log log = { .slot = args[0], .dirty_bitmap = bitmap };

	if (ioctl(vm, KVM_GET_DIRTY_LOG, &log))
		fail("KVM_GET_DIRTY_LOG");
	printf("@@DIRTY %lu", step);
	for (i = 0; i < pages; i++)
		if (bitmap[i / 64] >> i % 64 & 1)
			printf(" %lu", i);
	printf("\n");
	free(bitmap);
}

static void clear_dirty(const uint64_t *args)
{
	uint64_t *bitmap = malloc(args[2] / 8 + 8);
	struct kvm_clear_dirty_log log = { .slot = args[0], .first_page = args[1], .num_pages = args[2],
					   .dirty_bitmap = bitmap };

	memset(bitmap, 0xff, args[2] / 8 + 8);
	if (ioctl(vm, KVM_CLEAR_DIRTY_LOG, &log))
		fail("KVM_CLEAR_DIRTY_LOG");
	free(bitmap);
}

static void host_call(const struct call *call)
{
	const uint64_t *args = call->args;

	switch (call->op) {
	case HOST_SNAPSHOT:
		snapshot(args[0]);
		break;
	case HOST_SET_SLOT:
		set_slot(args);
		break;
	case HOST_GET_DIRTY:
		get_dirty(call->step, args);
		break;
	case HOST_CLEAR_DIRTY:
		clear_dirty(args);
		break;
	case HOST_DROP:
		if (madvise(memory + args[0], args[1], MADV_DONTNEED))
			fail("madvise");
		break;
	case HOST_PROTECT:
		if (mprotect(memory + args[0], args[1], PROT_READ | (args[2] ? PROT_WRITE : 0)))
			fail("mprotect");
		break;
	case HOST_POKE:
		memcpy(memory + args[0], &args[1], args[2]);
		break;
	case HOST_SMI:
		if (ioctl(vcpu, KVM_SMI))
			fail("KVM_SMI");
		break;
	default:
		fail("unknown host call %lu", call->op);
	}
}

/* The interpreter has left: what for, the port says. */
static void step_done(void)
{
	struct kvm_regs regs;
	uint64_t step, i;

	if (ioctl(vcpu, KVM_GET_REGS, &regs))
		fail("KVM_GET_REGS");
	memcpy(&step, memory + regs.rsi - 8, 8);
	switch (run->io.port) {
	case PORT_DONE:
		printf("@@RESULT %lu %llx\n", step, regs.rax);
		break;
	case PORT_FAULT:
		printf("@@FAULT %lu %llu %llx %llx\n", step, regs.rdx, regs.rbx, regs.rax);
		break;
	case PORT_HOST:
		for (i = regs.rbx; i < regs.rbx + regs.rcx; i++)
			host_call(&calls[i]);
		break;
	}
}

static void give_up(const char *why)
{
	struct kvm_regs regs = { 0 };
	uint64_t step = 0;

	ioctl(vcpu, KVM_GET_REGS, &regs);
	if (regs.rsi > STEPS && regs.rsi <= STEPS_END)
		memcpy(&step, memory + regs.rsi - 8, 8);
	errno = 0;
	fail("%s at step %lu (rip %llx, exit %d)", why, step, regs.rip, run->exit_reason);
}

static void on_alarm(int signal)
{
	(void)signal;
}

void run_program(const char *path)
{
	struct sigaction alarm_clock = { .sa_handler = on_alarm };	/* no SA_RESTART: KVM_RUN returns */

	errno = 0;
	load(path);
	write_file("/sys/module/kvm/parameters/nx_huge_pages", head->nx_huge_pages ? "force" : "off");
	open_trace();
	make_memory();
	create_vm();
	set_cpuid();
	set_registers();
	sigaction(SIGALRM, &alarm_clock, NULL);
	alarm(SECONDS);
	errno = 0;
	for (;;) {
		if (ioctl(vcpu, KVM_RUN, 0) < 0)
			give_up(errno == EINTR ? "the guest does not end" : "KVM_RUN failed");
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			step_done();
			break;
		case KVM_EXIT_MMIO:
			memset(run->mmio.data, 0, sizeof(run->mmio.data));
			break;
		case KVM_EXIT_HLT:
			tell_trace();
			return;
		case KVM_EXIT_SHUTDOWN:
			give_up("triple fault");
		default:
			give_up("KVM gave up");
		}
	}
}
