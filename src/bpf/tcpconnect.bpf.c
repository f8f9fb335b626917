// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The programs, one wrapper per hook; what they do is in the headers. User
 * space loads only those of the rung it uses.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "tcpconnect.h"
#include "maps.bpf.h"
#include "read.bpf.h"
#include "filter.bpf.h"
#include "connect.bpf.h"
#include "kprobe.bpf.h"
#include "sockops.bpf.h"
#include "family.bpf.h"

/* For the generated types. */
const struct connect_record *unused_connect_record __attribute__((unused));
const struct flow *unused_flow __attribute__((unused));
const struct net_key *unused_net_key __attribute__((unused));
const enum record_kind *unused_record_kind __attribute__((unused));

/* fentry rung: at exit the arguments and the result are both there. */

SEC("fexit/tcp_v4_connect")
int BPF_PROG(fexit_v4, struct sock *sk, void *uaddr, int addr_len, int ret)
{
	return ret ? 0 : connect_by_current(ctx, true, sk);
}

SEC("fexit/tcp_v6_connect")
int BPF_PROG(fexit_v6, struct sock *sk, void *uaddr, int addr_len, int ret)
{
	return ret || reported_by_v4(true, sk) ? 0 : connect_by_current(ctx, true, sk);
}

/* kprobe rung */

SEC("kprobe/tcp_v4_connect")
int BPF_KPROBE(kprobe_v4, struct sock *sk)
{
	return connect_entry(sk, false);
}

SEC("kretprobe/tcp_v4_connect")
int BPF_KRETPROBE(kretprobe_v4, int ret)
{
	return connect_return(ctx, ret, false);
}

SEC("kprobe/tcp_v6_connect")
int BPF_KPROBE(kprobe_v6, struct sock *sk)
{
	return connect_entry(sk, true);
}

SEC("kretprobe/tcp_v6_connect")
int BPF_KRETPROBE(kretprobe_v6, int ret)
{
	return connect_return(ctx, ret, true);
}

/* sockops rung; to return 1 lets the connect go on */

SEC("sockops")
int sockops_connect(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		connect_callback(ctx);
	return 1;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(sock_set_state, struct sock *sk, int oldstate, int newstate)
{
	state_changed(ctx, sk, newstate);
	return 0;
}

/* --children and COMMAND */

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	process_forked(parent, child);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	task_exited(task);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
