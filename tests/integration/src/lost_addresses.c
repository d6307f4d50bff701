/*
 * Has the processes that load this library (LD_PRELOAD) fail to read the addresses of the machine while the directory that
 * CUSTODIAN_TEST_ADDRESSES names has a file "lost", and each second time while it has a file "flickers". Each attempt in vain is
 * noted in its file "tried", by the number of the process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int
getifaddrs(struct ifaddrs **found)
{
	const char *directory = getenv("CUSTODIAN_TEST_ADDRESSES");
	char		path[4096];
	static int	attempts;
	int			fails;
	int		  (*real) (struct ifaddrs **);

	if (!directory)
		abort();
	snprintf(path, sizeof(path), "%s/lost", directory);
	fails = access(path, F_OK) == 0;
	snprintf(path, sizeof(path), "%s/flickers", directory);
	if (access(path, F_OK) == 0)
		fails = attempts++ % 2;
	if (fails)
	{
		char		line[32];
		int			length = snprintf(line, sizeof(line), "%d\n", (int) getpid());
		int			file;

		snprintf(path, sizeof(path), "%s/tried", directory);
		file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
		if (file < 0 || write(file, line, length) != length)
			abort();
		close(file);
		errno = EMFILE;
		return -1;
	}
	real = (int (*) (struct ifaddrs **)) dlsym(RTLD_NEXT, "getifaddrs");
	return real(found);
}
