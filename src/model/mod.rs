// SPDX-License-Identifier: Apache-2.0
//! The words: plain values, and rules that need nothing but them. Unknown is `None`.

pub mod cause;
pub mod container;
pub mod counts;
pub mod coverage;
pub mod event;
pub mod file_name;
pub mod filter;
pub mod lost;
pub mod name;
pub mod needs;
pub mod numbers;
pub mod process;
pub mod row;
pub mod shares;
pub mod socket;
