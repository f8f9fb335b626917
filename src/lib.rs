// SPDX-License-Identifier: Apache-2.0
//! tcpconnect: which process opened this TCP connection?

// What only Parquet files need is compiled away with them.
#![cfg_attr(not(feature = "parquet"), allow(dead_code, unused_variables))]

pub mod check;
pub mod clock;
pub mod config;
pub mod error;
pub mod escape;
pub mod host;
pub mod kernel;
pub mod model;
pub mod output;
pub mod plan;
pub mod poll;
pub mod record;
pub mod replay;
pub mod snapshot;
pub mod stop;
pub mod trace;
pub mod who;
