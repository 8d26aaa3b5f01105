//! Any text either fails to read as a pipeline, or becomes valid JSON; nothing panics (pipeline §2, §3).
#![no_main]

use ibex_core::pipeline::{document, expand, json, yaml};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

fuzz_target!(|text: &str| {
    for node in yaml::documents(text).flatten() {
        let Ok(mut document) = document::read(node) else { continue };
        let mut vars = BTreeMap::from([("A".to_owned(), "a value".to_owned()), ("E".to_owned(), String::new())]);
        if expand::expand(&mut document, &mut vars, false).is_err() {
            continue;
        }
        if let Ok(text) = json::compact(&document) {
            serde_json::from_str::<serde_json::Value>(&text).expect("what is uploaded is JSON");
        }
    }
});
