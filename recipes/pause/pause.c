/* The process of a pod's sandbox: holds the namespaces, reaps orphans, ends when
 * told to. Free of a C library, so that it costs a pod two pages of memory. */
#include <asm/unistd.h>
#include <signal.h>

static long call4(long number, long a, long b, long c, long d)
{
	long result;
	register long fourth asm("r10") = d;
	asm volatile("syscall"
		     : "=a"(result)
		     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
		     : "rcx", "r11", "memory");
	return result;
}

static unsigned long bit(int signal_number) { return 1UL << (signal_number - 1); }

__attribute__((noreturn, used)) void run(void)
{
	/* Blocked signals wait for sigtimedwait, so no handler is needed. */
	unsigned long wanted = bit(SIGINT) | bit(SIGTERM) | bit(SIGCHLD);
	call4(__NR_rt_sigprocmask, SIG_BLOCK, (long)&wanted, 0, sizeof wanted);
	for (;;) {
		long received = call4(__NR_rt_sigtimedwait, (long)&wanted, 0, 0, sizeof wanted);
		if (received == SIGINT || received == SIGTERM)
			call4(__NR_exit_group, 0, 0, 0, 0);
		while (call4(__NR_wait4, -1, 0, 1 /* WNOHANG */, 0) > 0)
			;
	}
}

/* The kernel enters with an aligned stack and no return address. */
asm(".globl _start\n_start: xor %ebp, %ebp\n and $-16, %rsp\n call run\n");
