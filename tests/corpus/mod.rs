// SPDX-License-Identifier: Apache-2.0
//! The inputs that are kept here for tests and fuzzers.

use std::collections::BTreeMap;
use std::fs;

/// All of `kind`, by name.
pub fn of(kind: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = format!("{}/tests/corpus/{kind}", env!("CARGO_MANIFEST_DIR"));
    let files = fs::read_dir(folder).expect("the corpus is there");
    let read = |file: fs::DirEntry| {
        let name = file.file_name().into_string().expect("UTF-8");
        (name, fs::read(file.path()).expect("a file"))
    };
    files.map(|file| read(file.expect("a file"))).collect()
}
