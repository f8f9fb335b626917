// SPDX-License-Identifier: Apache-2.0
//! The generated skeleton and its record types, nothing of our own.
#![allow(clippy::all, clippy::undocumented_unsafe_blocks, missing_debug_implementations, dead_code)]

include!(concat!(env!("OUT_DIR"), "/tcpconnect.skel.rs"));
