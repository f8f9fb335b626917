// SPDX-License-Identifier: Apache-2.0
//! What a run still does while it traces.

/// Beside what every run does: wait, write what it has already opened, and read and change
/// the maps that it made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Opens files of /proc and of the cgroups.
    pub reads_proc: bool,
    /// Asks the kernel which processes there are.
    pub lists_processes: bool,
    /// Opens a buffer for a CPU that comes online.
    pub opens_perf: bool,
    /// Reads a netlink socket.
    pub hears_netlink: bool,
    /// Waits for the process that records.
    pub records: bool,
    /// Waits for this child, and ends it.
    pub command: Option<u32>,
}
