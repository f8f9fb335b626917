// SPDX-License-Identifier: Apache-2.0
//! The kernel's own list of open files, by a BPF iterator: which process holds
//! which socket, for a tenth of what it costs to look through /proc, once it is
//! loaded. Knows nothing of sockets but their inodes; `holders` asks it, and looks
//! into /proc where it cannot be had.

use std::fs;
use std::io::Read as _;
use std::mem::MaybeUninit;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::Iter;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::SkelBuilder as _;

use crate::host::cgroup;
use crate::host::privilege;
use crate::kernel::skel::files::FilesSkelBuilder;
use crate::model::process::COMM_LEN;
use crate::model::process::Comm;

/// Open files of this host from which on the list is sooner there: /proc takes
/// 1.8 us for each with two CPUs, the program 8 ms to load and then 0.3 us.
const WORTH: u64 = 8_192;

/// A descriptor that is a socket or a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFile {
    pub inode: u32,
    /// In the initial pid namespace.
    pub pid: u32,
    /// The thread whose table it is in: the first one's is that of all which have
    /// not unshared theirs.
    pub tid: u32,
    pub fd: u32,
    /// Else a namespace, of any kind.
    pub is_socket: bool,
    /// Name of a socket's process.
    pub comm: Comm,
}

/// Whether to ask for the list. Its pids are those of the initial pid namespace.
pub fn are_worth_a_list() -> bool {
    let text = fs::read_to_string("/proc/sys/fs/file-nr").unwrap_or_default();
    let open = text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
    open >= Some(WORTH) && cgroup::own_pidns().is_none() && privilege::missing().is_none()
}

/// Lists those of all processes that this pid namespace has; those of a thread
/// only if it has a table of its own.
pub fn list() -> Result<Vec<OpenFile>> {
    // Else libbpf writes to stderr what this kernel lacks.
    libbpf_rs::set_print(None);
    let mut storage = MaybeUninit::uninit();
    let open = FilesSkelBuilder::default().open(&mut storage);
    let skel = open.and_then(|open| open.load()).context("failed to load the list of files")?;
    let link = skel.progs.list_files.attach().context("failed to attach the list of files")?;
    let mut bytes = Vec::new();
    Iter::new(&link)
        .map_err(anyhow::Error::from)
        .and_then(|mut list| Ok(list.read_to_end(&mut bytes)?))
        .context("failed to list the open files")?;
    Ok(decode(&bytes))
}

/// Of struct file_record, src/bpf/files.bpf.c.
fn decode(bytes: &[u8]) -> Vec<OpenFile> {
    const NUMBERS_LEN: usize = 20;
    let (records, _) = bytes.as_chunks::<{ NUMBERS_LEN + COMM_LEN }>();
    let open_file = |record: &[u8; NUMBERS_LEN + COMM_LEN]| {
        let number = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| record[4 * at + i]));
        OpenFile {
            inode: number(0),
            pid: number(1),
            tid: number(2),
            fd: number(3),
            is_socket: number(4) != 0,
            comm: Comm::new(&record[NUMBERS_LEN..]),
        }
    };
    records.iter().map(open_file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_five_numbers_and_a_name() {
        let record = |numbers: [u32; 5], comm: &[u8; COMM_LEN]| {
            [&numbers.map(u32::to_ne_bytes).concat()[..], comm].concat()
        };
        let bytes = [
            record([7, 8, 9, 10, 1], b"curl\0rest of it\0"),
            record([17, 18, 19, 20, 0], &[0; COMM_LEN]),
        ];
        let bytes = bytes.concat();
        let comm = Comm(*b"curl\0rest of it\0");
        let socket = OpenFile { inode: 7, pid: 8, tid: 9, fd: 10, is_socket: true, comm };
        let comm = Comm::default();
        let namespace = OpenFile { inode: 17, pid: 18, tid: 19, fd: 20, is_socket: false, comm };
        assert_eq!(decode(&bytes), [socket, namespace]);
        assert_eq!(decode(&bytes[..71]), [socket]);
        assert_eq!(decode(&[]), []);
    }
}
