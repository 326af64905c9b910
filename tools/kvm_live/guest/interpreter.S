/*
 * The interpreter, once for each operand size: it takes the next record of the step list at (%rsi), does what it
 * says and leaves to userspace. It keeps nothing in memory. %rdi holds the address of the handlers.
 *
 * Results go to userspace in registers, the kind by the number of the port:
 *	PORT_DONE   %rax: what was read
 *	PORT_FAULT  %rdx: the vector, %rbx: the error code, %rax: CR2
 *	PORT_HOST   %rbx: the number of the first host call, %rcx: how many
 */
	.section .rodata

#define BITS 16
#define NAME(x) x##_real
#include "interpreter.inc"
#undef NAME

#define SMM
#define NAME(x) x##_smm
#include "interpreter.inc"
#undef SMM
#undef NAME
#undef BITS

#define BITS 32
#define NAME(x) x##_32
#include "interpreter.inc"
#undef NAME
#undef BITS

#define BITS 64
#define NAME(x) x##_64
#include "interpreter.inc"

	.section .note.GNU-stack, "", @progbits
