/*
 * Runs the guest from one exit of the interpreter to the next, prints what each step gave, and does what the
 * step list wants done by userspace. At a snapshot it prints "@@SNAPSHOT ..." and waits for a line on
 * stdin, so that whoever listens can look at memory while nothing moves.
 */
#include "guest.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define SECONDS		20

static struct program program;
static struct machine m;
static int trace = -1;

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
	if (ioctl(m.vcpu, KVM_GET_SREGS, &s) || ioctl(m.vcpu, KVM_GET_VCPU_EVENTS, &events) ||
	    ioctl(m.vcpu, KVM_GET_NESTED_STATE, &nested))
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
	uint64_t pages = m.slot_pages[args[0] % MAX_SLOTS], i;
	uint64_t *bitmap = calloc(pages / 64 + 1, 8);
	struct kvm_dirty_log log = { .slot = args[0], .dirty_bitmap = bitmap };

	if (ioctl(m.vm, KVM_GET_DIRTY_LOG, &log))
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
	if (ioctl(m.vm, KVM_CLEAR_DIRTY_LOG, &log))
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
		set_slot(&m, args);
		break;
	case HOST_GET_DIRTY:
		get_dirty(call->step, args);
		break;
	case HOST_CLEAR_DIRTY:
		clear_dirty(args);
		break;
	case HOST_DROP:
		if (madvise(m.memory + args[0], args[1], MADV_DONTNEED))
			fail("madvise");
		break;
	case HOST_PROTECT:
		if (mprotect(m.memory + args[0], args[1], PROT_READ | (args[2] ? PROT_WRITE : 0)))
			fail("mprotect");
		break;
	case HOST_POKE:
		memcpy(m.memory + args[0], &args[1], args[2]);
		break;
	case HOST_SMI:
		if (ioctl(m.vcpu, KVM_SMI))
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

	if (ioctl(m.vcpu, KVM_GET_REGS, &regs))
		fail("KVM_GET_REGS");
	memcpy(&step, m.memory + regs.rsi - 8, 8);
	switch (m.run->io.port) {
	case PORT_DONE:
		printf("@@RESULT %lu %llx\n", step, regs.rax);
		break;
	case PORT_FAULT:
		printf("@@FAULT %lu %llu %llx %llx\n", step, regs.rdx, regs.rbx, regs.rax);
		break;
	case PORT_HOST:
		for (i = regs.rbx; i < regs.rbx + regs.rcx; i++)
			host_call(&program.calls[i]);
		break;
	}
}

static void give_up(const char *why)
{
	struct kvm_regs regs = { 0 };
	uint64_t step = 0;

	ioctl(m.vcpu, KVM_GET_REGS, &regs);
	if (regs.rsi > STEPS && regs.rsi <= STEPS_END)
		memcpy(&step, m.memory + regs.rsi - 8, 8);
	errno = 0;
	fail("%s at step %lu (rip %llx, exit %d)", why, step, regs.rip, m.run->exit_reason);
}

static void on_alarm(int signal)
{
	(void)signal;
}

void run_program(const char *path)
{
	struct sigaction alarm_clock = { .sa_handler = on_alarm };	/* no SA_RESTART: KVM_RUN returns */

	errno = 0;
	load_program(&program, path);
	write_file("/sys/module/kvm/parameters/nx_huge_pages", program.head->nx_huge_pages ? "force" : "off");
	open_trace();
	make_vm(&m, &program);
	sigaction(SIGALRM, &alarm_clock, NULL);
	alarm(SECONDS);
	errno = 0;
	for (;;) {
		if (ioctl(m.vcpu, KVM_RUN, 0) < 0)
			give_up(errno == EINTR ? "the guest does not end" : "KVM_RUN failed");
		switch (m.run->exit_reason) {
		case KVM_EXIT_IO:
			step_done();
			break;
		case KVM_EXIT_MMIO:
			memset(m.run->mmio.data, 0, sizeof(m.run->mmio.data));
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
