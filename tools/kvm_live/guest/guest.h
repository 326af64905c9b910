/* What init.c and vmm.c share. Addresses and numbers come from the command line of the compiler. */
#include <stdint.h>

/* Prints a line that begins with @@FAIL, and ends the process. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void write_file(const char *path, const char *text);
void run_program(const char *path);
