/* What the sources share. Addresses and numbers come from the command line of the compiler. */
#include <stdint.h>

#define MAX_SLOTS	64

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

/* A compiled scenario, its parts in the order in which they lie in the file. */
struct program {
	struct header *head;
	uint64_t *large;	/* place, bytes */
	struct call *slots;
	uint64_t *words;	/* place, value */
	struct call *calls;
};

/* The VM that is made of it. */
struct machine {
	int kvm, vm, vcpu;
	struct kvm_run *run;
	uint8_t *memory;	/* the backing of all slots */
	uint64_t slot_pages[MAX_SLOTS];
};

/* init.c. fail prints a line that begins with @@FAIL, and ends the process. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void write_file(const char *path, const char *text);

/* vm.c */
void load_program(struct program *program, const char *path);
void make_vm(struct machine *m, const struct program *program);
void set_slot(struct machine *m, const uint64_t *args);

/* vmm.c */
void run_program(const char *path);
