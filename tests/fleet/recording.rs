// SPDX-License-Identifier: Apache-2.0
//! `recording DIR HOSTS HOURS CONNECTS`: recordings of so many hosts, with so many connects of
//! each in an hour. The figures of docs/fleet.md are of such.

mod generate;

use std::path::Path;

use generate::Shape;

fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [dir, numbers @ ..] = &args[..] else { panic!("DIR HOSTS HOURS CONNECTS") };
    let numbers: Vec<u32> = numbers.iter().map(|text| text.parse().expect("a number")).collect();
    let [hosts, hours, connects] = numbers[..] else { panic!("DIR HOSTS HOURS CONNECTS") };
    let shape = Shape { hosts, hours, connects, has_logs: false };
    generate::generate(Path::new(dir), &shape);
}
