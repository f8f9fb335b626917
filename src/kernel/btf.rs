// SPDX-License-Identifier: Apache-2.0
//! The file of `--btf`. It says at which offsets the programs read kernel memory, so
//! whoever chooses it chooses what is read: only root may have written it.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use crate::error::StartError;
use crate::error::text_of;

pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

pub fn kernel_has_its_own() -> bool {
    Path::new(KERNEL_BTF).exists()
}

/// A checked file; what was checked is what libbpf reads.
pub(super) struct BtfFile(File);

impl BtfFile {
    pub(super) fn open(path: &Path) -> Result<Self, StartError> {
        let bad = |why: &str| StartError::BadBtf(path.display().to_string(), why.to_owned());
        if kernel_has_its_own() {
            return Err(bad("this kernel has BTF of its own; leave out --btf"));
        }
        // Without O_NONBLOCK the open of a FIFO would wait for a writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(|e| match e.raw_os_error() {
                Some(libc::ELOOP) => bad("it is a symbolic link; give --btf the file itself"),
                _ => bad(&format!("{}; check --btf", text_of(&e))),
            })?;
        let meta = file.metadata().map_err(|e| bad(&text_of(&e)))?;
        if !meta.is_file() {
            return Err(bad("it is no regular file; check --btf"));
        }
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return Err(bad(
                "it decides where kernel memory is read, so only root may be able to change it; \
                 chown root and chmod go-w",
            ));
        }
        match holds_btf(&file).map_err(|e| bad(&format!("{}; check --btf", text_of(&e))))? {
            true => Ok(BtfFile(file)),
            false => Err(bad("it holds no BTF; check --btf")),
        }
    }

    /// A name for the open file, whatever its path leads to by now.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// Raw BTF, or an ELF file that may have a .BTF section.
fn holds_btf(mut file: &File) -> std::io::Result<bool> {
    let mut magic = [0; 4];
    match file.read_exact(&mut magic) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
        result => result?,
    }
    Ok(matches!(magic, [0x7f, b'E', b'L', b'F'] | [0x9f, 0xeb, ..] | [0xeb, 0x9f, ..]))
}
