//! Every example must load, with nothing left to remark on.

use std::path::Path;

use super::*;

fn example(name: &str) -> Config {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name);
    let sources = Sources {
        file: Some(file),
        ..Sources::default()
    };
    load(&sources).unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn every_example_loads_without_remarks() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".toml") {
            assert_eq!(example(&name).notices, [], "{name}");
            count += 1;
        }
    }
    assert!(count >= 3, "{count} examples");
}

#[test]
fn every_file_of_instances_among_the_examples_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/instances");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let instances = instances_in(&entry.unwrap().path(), 1);
        let instances = instances.unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(instances.len(), 3);
        count += 1;
    }
    assert_eq!(count, 2);
}

#[test]
fn the_first_configuration_of_the_readme_loads() {
    let readme = include_str!("../../../../README.md");
    let (_, after) = readme.split_once("```toml\n").unwrap();
    let (text, _) = after.split_once("```").unwrap();
    let config = load_text(text).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.notices, []);
    assert!(!config.desired.services.is_empty());
}

#[test]
fn the_demos_configuration_loads() {
    let demo = include_str!("../../../../tests/src/demo/lb.toml");
    let config = load_text(&demo.replace("@PINS@", "/sys/fs/bpf/lb-demo")).unwrap();
    assert!(config.notices.is_empty(), "{:?}", config.notices);
    assert_eq!(config.desired.vips.len(), 6);
}
