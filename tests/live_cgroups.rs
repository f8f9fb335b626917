// SPDX-License-Identifier: Apache-2.0
//! Folders of cgroup v2 that others than root may make: nested without limit, and
//! with any name.

use super::Cells;
use super::lab::Cgroup;
use super::lab::Client;
use super::lab::Done;
use super::lab::Lab;

pub const TESTS: &super::Tests = &[(
    Cells::OneBuffer,
    &tests![
        a_process_nested_deep_in_a_cgroup_passes_its_filter,
        a_process_nested_deep_in_a_unit_passes_its_filter,
    ],
)];

/// Folders, each in the one before.
struct Nest(Vec<Cgroup>);

impl Nest {
    fn new(outer: &Cgroup, depth: usize) -> Self {
        let mut nest = Nest(vec![outer.inside("n")]);
        for at in 1..depth {
            nest.0.push(nest.0[at - 1].inside("n"));
        }
        nest
    }
}

impl Drop for Nest {
    /// Within before without.
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

fn ports(done: &Done) -> Vec<u64> {
    done.assert_quiet_success();
    done.rows().iter().map(|row| row["dport"].as_u64().expect("a port")).collect()
}

/// Deeper than any walk: 40 and 300 levels; and as many that are not below it.
fn a_process_nested_deep_in_a_cgroup_passes_its_filter(lab: &Lab) {
    let wanted = Cgroup::new(&format!("deep-{}-{}", lab.attach, lab.buffer));
    let other = Cgroup::new(&format!("other-{}-{}", lab.attach, lab.buffer));
    let mut client = Client::new();
    let (inside, outside) = (Nest::new(&wanted, 300), Nest::new(&other, 100));
    let path = wanted.path();
    let tracer = lab.trace(&["-j", "--cgroup", &path, "--netns", &client.netns()]);
    for (cgroup, port) in [
        (&wanted, 81),
        (&outside.0[39], 91),
        (&inside.0[39], 82),
        (&outside.0[99], 92),
        (&inside.0[299], 83),
    ] {
        cgroup.adopt(client.pid());
        client.knock(port);
    }
    assert_eq!(ports(&tracer.stop()), [81, 82, 83]);
    drop(client);
}

/// One that is found at start, and one that is made later and deeper than a walk goes.
fn a_process_nested_deep_in_a_unit_passes_its_filter(lab: &Lab) {
    let outer = Cgroup::new(&format!("units-{}-{}", lab.attach, lab.buffer));
    let unit = format!("deep-{}.service", std::process::id());
    let existing = outer.inside(&unit);
    let below = Nest::new(&existing, 40);
    let elsewhere = Nest::new(&outer, 70);
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "--unit", &unit, "--netns", &client.netns()]);
    below.0[39].adopt(client.pid());
    client.knock(81);
    elsewhere.0[38].adopt(client.pid());
    client.knock(91);
    let later = elsewhere.0[39].inside(&unit);
    later.adopt(client.pid());
    client.knock(82);
    let inside = Nest::new(&later, 70);
    inside.0[69].adopt(client.pid());
    client.knock(83);
    let done = tracer.stop();
    assert_eq!(ports(&done), [81, 82, 83]);
    drop(client);
    drop(inside);
    drop(later);
    drop(below);
}
