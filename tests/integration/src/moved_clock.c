/*
 * Moves the clock of the processes that load this library (LD_PRELOAD) by the seconds, an int64, in the file that
 * CUSTODIAN_TEST_CLOCK names, at any time. Clocks that nobody sets go on as they are.
 *
 * Debian's libfaketime does not reach background workers of PostgreSQL 15: the postmaster forks them in a signal
 * handler that interrupts select(), in which that library fakes nothing, and its children inherit that.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;

__attribute__((constructor)) static void load(void)
{
	const char *path = getenv("CUSTODIAN_TEST_CLOCK");
	int			file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void	   *memory;

	if (file < 0)
		abort();
	memory = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
	if (memory == MAP_FAILED)
		abort();
	offset = memory;
	close(file);
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	int			failed = (int) syscall(SYS_clock_gettime, clock, now);

	if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) && offset)
		now->tv_sec += *offset;
	return failed;
}

int
gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec exact;

	(void) zone;
	if (clock_gettime(CLOCK_REALTIME, &exact))
		return -1;
	now->tv_sec = exact.tv_sec;
	now->tv_usec = exact.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *now)
{
	struct timespec exact;

	if (clock_gettime(CLOCK_REALTIME, &exact))
		return -1;
	if (now)
		*now = exact.tv_sec;
	return exact.tv_sec;
}
