// SPDX-License-Identifier: Apache-2.0
//! The text of the BPF programs, as `--ebpf` prints it.

/// The BPF program's own source, for `--ebpf`.
pub const EBPF: &str = concat!(
    include_str!("../bpf/tcpconnect.bpf.c"),
    include_str!("../bpf/tcpconnect.h"),
    include_str!("../bpf/verify.bpf.h"),
    include_str!("../bpf/maps.bpf.h"),
    include_str!("../bpf/read.bpf.h"),
    include_str!("../bpf/filter.bpf.h"),
    include_str!("../bpf/task.bpf.h"),
    include_str!("../bpf/flow.bpf.h"),
    include_str!("../bpf/peer.bpf.h"),
    include_str!("../bpf/count.bpf.h"),
    include_str!("../bpf/connect.bpf.h"),
    include_str!("../bpf/kprobe.bpf.h"),
    include_str!("../bpf/share.bpf.h"),
    include_str!("../bpf/submit.bpf.h"),
    include_str!("../bpf/lives.bpf.h"),
    include_str!("../bpf/life.bpf.h"),
    include_str!("../bpf/sockops.bpf.h"),
    include_str!("../bpf/accept.bpf.h"),
    include_str!("../bpf/descendants.bpf.h"),
    include_str!("../bpf/process.bpf.h"),
    include_str!("../bpf/cgroup.bpf.h"),
    include_str!("../bpf/dns.bpf.h"),
);
