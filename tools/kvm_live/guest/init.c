/*
 * Process 1 of the kernel under test: loads KVM as /modules says, tells where its data lies, and runs
 * every program in /programs. Talks to the world through /dev/ttyS1, line by line.
 */
#include "guest.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

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

void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail("cannot write '%s' to %s", text, path);
	close(fd);
}

static void mount_at(const char *type, const char *where)
{
	mkdir(where, 0755);
	if (mount(type, where, type, 0, NULL))
		fail("cannot mount %s", type);
}

static void talk_through(const char *tty)
{
	struct termios t;
	int fd = open(tty, O_RDWR | O_NOCTTY);

	if (fd < 0 || tcgetattr(fd, &t))
		_exit(1);
	cfmakeraw(&t);
	tcsetattr(fd, TCSANOW, &t);
	dup2(fd, 0);
	dup2(fd, 1);
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
}

/* Each line: the file's name below /modules.d, a blank, the parameters. */
static void load_modules(void)
{
	char line[256], path[300];
	FILE *list = fopen("/modules", "r");

	while (list && fgets(line, sizeof(line), list)) {
		char *parameters;
		int fd;

		line[strcspn(line, "\n")] = 0;
		parameters = strchr(line, ' ');
		*parameters++ = 0;
		snprintf(path, sizeof(path), "/modules.d/%s", line);
		fd = open(path, O_RDONLY);
		if (syscall(SYS_finit_module, fd, parameters, 0))
			fail("the kernel refuses the module %s %s", line, parameters);
		close(fd);
	}
	fclose(list);
}

static void tell_symbols(void)
{
	char line[512], name[256], type;
	unsigned long address;
	FILE *symbols = fopen("/proc/kallsyms", "r");
	static const char *const wanted[] = { SYMBOLS };

	while (symbols && fgets(line, sizeof(line), symbols)) {
		if (sscanf(line, "%lx %c %255s", &address, &type, name) != 3)
			continue;
		for (unsigned i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
			if (!strcmp(name, wanted[i]))
				printf("@@SYMBOL %s %lx\n", name, address);
	}
	fclose(symbols);
}

static void tell_line(const char *what, const char *path, const char *prefix)
{
	char line[4096];
	FILE *file = fopen(path, "r");

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, prefix, strlen(prefix))) {
			printf("@@%s %s", what, line);
			break;
		}
	if (file)
		fclose(file);
}

static void run(int number)
{
	char path[64];
	int status;
	pid_t child;

	snprintf(path, sizeof(path), "/programs/%d", number);
	printf("@@BEGIN %d\n", number);
	fflush(stdout);
	child = fork();
	if (child == 0) {
		run_program(path);
		fflush(stdout);
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (WIFSIGNALED(status))
		printf("@@FAIL userspace ended by signal %d\n", WTERMSIG(status));
	printf("@@END %d\n", number);
	fflush(stdout);
}

int main(void)
{
	char path[64];
	int number;

	mount_at("devtmpfs", "/dev");
	mount_at("proc", "/proc");
	mount_at("sysfs", "/sys");
	mount_at("tracefs", "/sys/kernel/tracing");
	talk_through("/dev/ttyS1");
	tell_line("FLAGS", "/proc/cpuinfo", "flags");
	tell_line("RELEASE", "/proc/sys/kernel/osrelease", "");
	load_modules();
	tell_line("TDP_MMU", "/sys/module/kvm/parameters/tdp_mmu", "");
	tell_line("NPT", "/sys/module/kvm_amd/parameters/npt", "");
	tell_symbols();
	write_file("/sys/kernel/mm/transparent_hugepage/khugepaged/defrag", "0");
	write_file("/sys/kernel/tracing/events/kvmmmu/enable", "1");
	/* thousands of lines */
	write_file("/sys/kernel/tracing/events/kvmmmu/kvm_tdp_mmu_spte_changed/enable", "0");
	printf("@@READY\n");
	fflush(stdout);
	for (number = 0;; number++) {
		snprintf(path, sizeof(path), "/programs/%d", number);
		if (access(path, R_OK))
			break;
		run(number);
	}
	printf("@@DONE\n");
	fflush(stdout);
	for (;;)
		pause();
}
