// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The programs, one wrapper per hook; what they do is in the headers. User
 * space loads only those of the hook it uses.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "tcpconnect.h"
#include "verify.bpf.h"
#include "maps.bpf.h"
#include "read.bpf.h"
#include "filter.bpf.h"
#include "share.bpf.h"
#include "submit.bpf.h"
#include "lives.bpf.h"
#include "task.bpf.h"
#include "flow.bpf.h"
#include "peer.bpf.h"
#include "count.bpf.h"
#include "connect.bpf.h"
#include "kprobe.bpf.h"
#include "life.bpf.h"
#include "sockops.bpf.h"
#include "accept.bpf.h"
#include "descendants.bpf.h"
#include "process.bpf.h"
#include "cgroup.bpf.h"
#include "dns.bpf.h"

/*
 * This source is compiled into one object for each part, so that a run opens and keeps only what
 * it may use. Each object has all programs, maps and constants, for one skeleton serves all; a
 * program of another part is empty there, and is not loaded.
 */
#define TABLE 1 /* connects for BCC's table, by any hook, and nothing beside them */
#define FENTRY 2
#define KPROBE 4
#define SOCKOPS 8
#define FIELDS 16 /* the same for a row with more fields, as JSON has them */
#define BESIDE (FENTRY | KPROBE | SOCKOPS) /* whatever the hook is */
#ifndef PARTS
#define PARTS (TABLE | FIELDS | BESIDE)
#endif
#define ONLY_IN(parts)          \
	if (!(PARTS & (parts))) \
		return 0
#define PART_OF(level, hook) \
	((hook) | ((level) == LEVEL_TABLE ? TABLE : (level) == LEVEL_FIELDS ? FIELDS : 0))

/* For the generated types. */
const struct connect_record *unused_connect_record __attribute__((unused));
const struct flow *unused_flow __attribute__((unused));
const struct net_key *unused_net_key __attribute__((unused));
const struct process_record *unused_process_record __attribute__((unused));
const struct life_record *unused_life_record __attribute__((unused));
const struct attempt *unused_attempt __attribute__((unused));
const enum place *unused_place __attribute__((unused));
const enum close_by *unused_close_by __attribute__((unused));
const struct cgroup_record *unused_cgroup_record __attribute__((unused));
const struct dns_record *unused_dns_record __attribute__((unused));
const enum dns_place *unused_dns_place __attribute__((unused));
const struct cgroup_levels *unused_cgroup_levels __attribute__((unused));
const struct cgroup_name *unused_cgroup_name __attribute__((unused));
const enum record_kind *unused_record_kind __attribute__((unused));
const enum no_user *unused_no_user __attribute__((unused));
const enum record_flags *unused_record_flags __attribute__((unused));

/*
 * fentry hook: at exit the arguments and the result are both there. kprobe
 * hook: a pair of probes. sockops hook: to return 1 lets the connect go on.
 *
 * Each for each level of filter.bpf.h.
 */
#define CONNECT_PROGRAMS(suffix, level)                                                            \
	SEC("fexit/tcp_v4_connect")                                                               \
	int BPF_PROG(fexit_v4##suffix, struct sock *sk, void *uaddr, int addr_len, int ret)       \
	{                                                                                         \
		ONLY_IN(PART_OF(level, FENTRY));                                                  \
		return connect_ended(level, IN_V4, ctx, BY_TYPE, sk, uaddr, addr_len, ret);  \
	}                                                                                         \
	SEC("fexit/tcp_v6_connect")                                                               \
	int BPF_PROG(fexit_v6##suffix, struct sock *sk, void *uaddr, int addr_len, int ret)       \
	{                                                                                         \
		ONLY_IN(PART_OF(level, FENTRY));                                                  \
		return connect_ended(level, IN_V6, ctx, BY_TYPE, sk, uaddr, addr_len, ret);  \
	}                                                                                         \
	SEC("kprobe/tcp_v4_connect")                                                              \
	int BPF_KPROBE(kprobe_v4##suffix, struct sock *sk, void *uaddr, int addr_len)             \
	{                                                                                         \
		ONLY_IN(PART_OF(level, KPROBE));                                                  \
		return connect_entry(level, IN_V4, sk, uaddr, addr_len);                          \
	}                                                                                         \
	SEC("kretprobe/tcp_v4_connect")                                                           \
	int BPF_KRETPROBE(kretprobe_v4##suffix, int ret)                                          \
	{                                                                                         \
		ONLY_IN(PART_OF(level, KPROBE));                                                  \
		return connect_return(level, IN_V4, ctx, ret);                                    \
	}                                                                                         \
	SEC("kprobe/tcp_v6_connect")                                                              \
	int BPF_KPROBE(kprobe_v6##suffix, struct sock *sk, void *uaddr, int addr_len)             \
	{                                                                                         \
		ONLY_IN(PART_OF(level, KPROBE));                                                  \
		return connect_entry(level, IN_V6, sk, uaddr, addr_len);                          \
	}                                                                                         \
	SEC("kretprobe/tcp_v6_connect")                                                           \
	int BPF_KRETPROBE(kretprobe_v6##suffix, int ret)                                          \
	{                                                                                         \
		ONLY_IN(PART_OF(level, KPROBE));                                                  \
		return connect_return(level, IN_V6, ctx, ret);                                    \
	}

CONNECT_PROGRAMS(, LEVEL_TABLE)
CONNECT_PROGRAMS(_more, LEVEL_FIELDS)
CONNECT_PROGRAMS(_all, LEVEL_PROCESS)
CONNECT_PROGRAMS(_failed, LEVEL_FAILED)

#define SOCKOPS_PROGRAM(suffix, level)                        \
	SEC("sockops")                                        \
	int sockops_connect##suffix(struct bpf_sock_ops *ctx) \
	{                                                     \
		ONLY_IN(PART_OF(level, SOCKOPS));             \
		sockops_event(level, ctx);                    \
		return 1;                                     \
	}

SOCKOPS_PROGRAM(, LEVEL_TABLE)
SOCKOPS_PROGRAM(_more, LEVEL_FIELDS)
SOCKOPS_PROGRAM(_all, LEVEL_PROCESS)

SEC("fexit/security_socket_connect")
int BPF_PROG(fexit_security, struct socket *sock, void *uaddr, int addr_len, int ret)
{
	ONLY_IN(FENTRY);
	return refused_by_policy(ctx, sock->sk, uaddr, addr_len, ret);
}

SEC("kprobe/security_socket_connect")
int BPF_KPROBE(kprobe_security, struct socket *sock, void *uaddr, int addr_len)
{
	struct sock *sk;

	ONLY_IN(KPROBE);
	sk = BPF_CORE_READ(sock, sk);
	return is_tcp(BY_PROBE, sk) ? connect_entry(LEVEL_FAILED, IN_POLICY, sk, uaddr, addr_len)
				    : 0;
}

SEC("kretprobe/security_socket_connect")
int BPF_KRETPROBE(kretprobe_security, int ret)
{
	ONLY_IN(KPROBE);
	return connect_return(LEVEL_FAILED, IN_POLICY, ctx, ret);
}

#define POLICY_PROGRAMS(family)                                                             \
	SEC("fexit/tcp_" #family "_pre_connect")                                            \
	int BPF_PROG(fexit_pre_##family, struct sock *sk, void *uaddr, int addr_len, int ret) \
	{                                                                                   \
		ONLY_IN(FENTRY);                                                            \
		return refused_by_policy(ctx, sk, uaddr, addr_len, ret);                    \
	}                                                                                   \
	SEC("kprobe/tcp_" #family "_pre_connect")                                           \
	int BPF_KPROBE(kprobe_pre_##family, struct sock *sk, void *uaddr, int addr_len)     \
	{                                                                                   \
		ONLY_IN(KPROBE);                                                            \
		return connect_entry(LEVEL_FAILED, IN_POLICY, sk, uaddr, addr_len);               \
	}                                                                                   \
	SEC("kretprobe/tcp_" #family "_pre_connect")                                        \
	int BPF_KRETPROBE(kretprobe_pre_##family, int ret)                                  \
	{                                                                                   \
		ONLY_IN(KPROBE);                                                            \
		return connect_return(LEVEL_FAILED, IN_POLICY, ctx, ret);                         \
	}

POLICY_PROGRAMS(v4)
POLICY_PROGRAMS(v6)

SEC("fentry/security_sock_graft")
int BPF_PROG(fentry_accept, struct sock *sk)
{
	ONLY_IN(FENTRY);
	return accepted(ctx, BY_TYPE, true, sk);
}

SEC("kprobe/security_sock_graft")
int BPF_KPROBE(kprobe_accept, struct sock *sk)
{
	ONLY_IN(KPROBE | SOCKOPS);
	return accepted(ctx, BY_PROBE, true, sk);
}

SEC("tp/syscalls/sys_exit_accept")
int accept_exit(struct call_exit *ctx)
{
	ONLY_IN(SOCKOPS);
	return accept_ended(ctx, ctx->ret);
}

SEC("tp/syscalls/sys_exit_accept4")
int accept4_exit(struct call_exit *ctx)
{
	ONLY_IN(SOCKOPS);
	return accept_ended(ctx, ctx->ret);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(call_exit, struct pt_regs *regs, long ret)
{
	ONLY_IN(SOCKOPS);
	return call_ended(ctx, regs, ret);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(sock_set_state, struct sock *sk, int oldstate, int newstate)
{
	ONLY_IN(BESIDE);
	state_changed(ctx, sk, oldstate, newstate);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(sock_destroyed, struct sock *sk)
{
	ONLY_IN(BESIDE);
	taken_down(sk);
	return 0;
}

/*
 * Processes: --children, COMMAND, and who made the connect. From 7.0 on a task
 * can be preempted inside a tp_btf program, whose other runs on that CPU are
 * then skipped; a program on the perf side of a tracepoint runs with preemption
 * off. That one gets the child's pid alone. (bpf_task_from_pid() would find
 * the child, but with a kernel function in it the object does not load where the
 * kernel has no BTF.)
 */

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	ONLY_IN(BESIDE);
	forked(ctx, may_probe ? BY_PROBE : BY_TYPE, parent, child);
	return 0;
}

SEC("tp/sched/sched_process_fork")
int process_fork_tp(struct trace_event_raw_sched_process_fork *ctx)
{
	ONLY_IN(BESIDE);
	forked_by_pid(ctx, ctx->child_pid);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	ONLY_IN(BESIDE);
	exited(ctx, task);
	return 0;
}

SEC("tp/sched/sched_process_exit")
int process_exit_tp(void *ctx)
{
	ONLY_IN(BESIDE);
	exited(ctx, bpf_get_current_task_btf());
	return 0;
}

/* Even in code that is never run 5.10 refuses the address of a function, as bpf_loop() takes
 * it: so each has two programs. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task)
{
	ONLY_IN(BESIDE);
	report_exec(true, ctx, task);
	return 0;
}

SEC("tp/sched/sched_process_exec")
int process_exec_tp(void *ctx)
{
	ONLY_IN(BESIDE);
	report_exec(true, ctx, bpf_get_current_task_btf());
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec_bounded, struct task_struct *task)
{
	ONLY_IN(BESIDE);
	report_exec(false, ctx, task);
	return 0;
}

SEC("tp/sched/sched_process_exec")
int process_exec_bounded_tp(void *ctx)
{
	ONLY_IN(BESIDE);
	report_exec(false, ctx, bpf_get_current_task_btf());
	return 0;
}

SEC("tp_btf/task_rename")
int BPF_PROG(process_rename, struct task_struct *task, const char *comm)
{
	ONLY_IN(BESIDE);
	report_rename(ctx, task, task->pid, comm);
	return 0;
}

/* A thread can be renamed by another, but only of the same process. */
SEC("tp/task/task_rename")
int process_rename_tp(struct trace_event_raw_task_rename *ctx)
{
	ONLY_IN(BESIDE);
	report_rename(ctx, bpf_get_current_task_btf(), ctx->pid, ctx->newcomm);
	return 0;
}

SEC("iter/task")
int process_list(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	ONLY_IN(BESIDE);
	if (task)
		list_process(ctx->meta->seq, task);
	return 0;
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_new, struct cgroup *cgrp)
{
	ONLY_IN(BESIDE);
	cgroup_changed(ctx, cgrp, RECORD_CGROUP_NEW);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_gone, struct cgroup *cgrp)
{
	ONLY_IN(BESIDE);
	cgroup_changed(ctx, cgrp, RECORD_CGROUP_GONE);
	return 0;
}

/* To return 1 lets the packet, the connect or the message go on. */
SEC("cgroup_skb/ingress")
int dns_received(struct __sk_buff *skb)
{
	ONLY_IN(BESIDE);
	received(skb);
	return 1;
}

SEC("cgroup_skb/egress")
int dns_sent(struct __sk_buff *skb)
{
	ONLY_IN(BESIDE);
	sent(skb);
	return 1;
}

#define DNS_ASKED(hook, family)                     \
	SEC("cgroup/" #hook)                        \
	int dns_##hook(struct bpf_sock_addr *ctx)   \
	{                                           \
		ONLY_IN(BESIDE);                    \
		asks(family, ctx);                  \
		return 1;                           \
	}

DNS_ASKED(connect4, AF_INET)
DNS_ASKED(connect6, AF_INET6)
DNS_ASKED(sendmsg4, AF_INET)
DNS_ASKED(sendmsg6, AF_INET6)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
