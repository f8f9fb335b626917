// SPDX-License-Identifier: Apache-2.0
//! Scenarios and storms, alone and beside an attacker, one after the other until the
//! time is over.

use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use super::steps;
use super::steps::Step;
use super::storm::Weather;

/// A process of their own for so many, so that each begins as a user's run does.
/// As many have the same options.
const SCENARIOS: u64 = 75;

#[derive(Default)]
struct Total {
    scenarios: u64,
    steps: usize,
    storms: u64,
    connects: usize,
    lost: u64,
    differences: usize,
}

/// Returns how much was wrong. A failure has its seed in what is printed.
pub fn run(weather: &Weather, first: u64, time: Duration) -> usize {
    let began = Instant::now();
    let mut total = Total::default();
    let mut seed = first;
    while began.elapsed() < time {
        for attacked in [false, true] {
            scenarios(weather, seed, attacked, &mut total);
            let storm = weather.storm(seed, attacked);
            total.storms += 1;
            total.connects += storm.facts;
            total.lost += storm.lost;
            total.differences += storm.wrong.len();
        }
        seed += SCENARIOS;
    }
    let Total { scenarios, steps, storms, connects, lost, differences } = total;
    println!(
        "{} s from seed {first}: {scenarios} scenarios of {steps} steps, {storms} storms, {connects} \
         connects and accepts, {lost} events told to be lost, {differences} differences",
        began.elapsed().as_secs()
    );
    differences
}

fn scenarios(weather: &Weather, seed: u64, attacked: bool, total: &mut Total) {
    let this = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(this);
    // With one hook, and its buffers in turn.
    command.env("TEST_ATTACH", weather.attach).env("TEST_BUFFER", weather.buffers.join(","));
    command.args(["--seed", &seed.to_string(), "--scenarios", &SCENARIOS.to_string()]);
    command.args([if attacked { "--attacked" } else { "--early" }]);
    let output = command.output().expect("it runs");
    if !output.status.success() {
        total.differences += 1;
        for text in [&output.stdout, &output.stderr] {
            print!("{}", String::from_utf8_lossy(text));
        }
    }
    for steps in (seed..seed + SCENARIOS).map(steps::draw) {
        total.steps += steps.len();
        let is_connect = |step: &&Step| matches!(step, Step::Connect { .. });
        total.connects += steps.iter().filter(is_connect).count();
    }
    total.scenarios += SCENARIOS;
}
