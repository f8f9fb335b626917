/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What makes a start quicker: the kernel's verifier goes through all that follows once for each
 * constant that a branch there depends on. Changes nothing that a program does.
 */
#ifndef VERIFY_BPF_H
#define VERIFY_BPF_H

/*
 * The value stays, but the verifier takes it for any. Where ways that set it to this or that meet,
 * it follows one of them then. With what follows a change of state, 18,710 instructions were
 * verified on 6.18, and 10,840 are. `other` is any number that the verifier does not know.
 */
#define FORGET(value, other)                                                           \
	do {                                                                           \
		__u64 unknown = (other);                                               \
										       \
		_Static_assert(sizeof(value) == sizeof(__u64), "a whole register");    \
		asm volatile("%0 ^= %1; %0 ^= %1" : "+r"(value) : "r"(unknown));        \
	} while (0)

#endif
