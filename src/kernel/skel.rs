// SPDX-License-Identifier: Apache-2.0
//! The generated skeletons and their record types, nothing of our own.
#![allow(clippy::all, clippy::undocumented_unsafe_blocks, missing_debug_implementations, dead_code)]

include!(concat!(env!("OUT_DIR"), "/tcpconnect.skel.rs"));

/// The object of `--snapshot`.
pub mod files {
    include!(concat!(env!("OUT_DIR"), "/files.skel.rs"));
}
