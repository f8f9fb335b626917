// SPDX-License-Identifier: Apache-2.0
//! What this host says of itself: /proc, cgroups, netlink, and what this process may do.
//! Knows no options, no BPF and no output.

pub mod cgroup;
mod cgroup_scan;
pub mod connector;
mod container_files;
pub mod container_names;
pub mod containers;
pub mod helpers;
pub mod memory;
pub mod privilege;
pub mod proc;
pub mod rights;
pub mod sandbox;
pub mod sock_diag;
pub mod users;
pub mod wanted;
