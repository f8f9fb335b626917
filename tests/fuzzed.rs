// SPDX-License-Identifier: Apache-2.0
//! What `make fuzz` runs on any bytes, on those of the corpus: so it compiles, and holds for what
//! was found before.

extern crate self as libfuzzer_sys;

mod corpus;
#[path = "../fuzz/line.rs"]
#[allow(unused_attributes)]
mod line;
#[path = "../fuzz/message.rs"]
#[allow(unused_attributes)]
mod message;
#[path = "../fuzz/record.rs"]
#[allow(unused_attributes)]
mod record;

/// In place of that of libFuzzer, which is not needed for it.
#[macro_export]
macro_rules! fuzz_target {
    (|$sample:ident: &[u8]| $body:block) => {
        pub fn run($sample: &[u8]) $body
    };
}

type Target = fn(&[u8]);

#[test]
fn each_target_of_the_fuzzer_holds_for_its_corpus() {
    let targets: [(&str, Target); 3] =
        [("line", line::run), ("message", message::run), ("record", record::run)];
    for (name, target) in targets {
        let samples = corpus::of(name);
        assert!(!samples.is_empty(), "{name}");
        samples.values().for_each(|sample| target(sample));
    }
}
