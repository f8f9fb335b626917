/* SPDX-License-Identifier: Apache-2.0 */
/* Looks a name up with the C library it is linked with and connects: NAME PORT. */
#include <netdb.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM }, *to;
	int fd;

	if (argc != 3 || getaddrinfo(argv[1], argv[2], &hints, &to))
		return 1;
	fd = socket(to->ai_family, to->ai_socktype, to->ai_protocol);
	return connect(fd, to->ai_addr, to->ai_addrlen) ? 2 : 0;
}
