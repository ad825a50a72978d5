//! Records of generations: what is current, what is forgotten, what other versions wrote.

use flist::hub::{FlistName, ReleaseId, ReleaseVersion};

use super::*;
use crate::generation::{Cause, generation};
use crate::item::Items;

fn sample(number: u64, marker: &str) -> Generation {
    let root = RootIdentity { marker: Some(marker.to_owned()), volatile: true };
    let channel: FlistName = "a/b:v1.0.0.flist".parse().unwrap();
    let version = ReleaseVersion::in_name(&channel);
    let what = (channel.into(), version, ReleaseId::of([]), &flists(&["b"])[..]);
    generation(number, Cause::Release, what, root, String::new(), Items::new())
}

fn flists(packages: &[&str]) -> Vec<ReleaseFlist> {
    let flist = |package: &&str| ReleaseFlist {
        package: (*package).to_owned(),
        location: format!("a/{package}.flist").parse().unwrap(),
        sha256: Sha256::of(package.as_bytes()),
        bytes: package.as_bytes().to_vec(),
    };
    packages.iter().map(flist).collect()
}

fn commit(state: &StateDir, generation: &Generation) {
    state.prepare(generation, &flists(&["b"]), b"").unwrap();
    state.commit(generation.number).unwrap();
}

#[test]
fn the_last_committed_one_is_current_and_others_can_be_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(&dir.path().join("molt")).unwrap();
    let here = sample(1, "root").root;
    let unmarked = RootIdentity { marker: None, ..here.clone() };
    assert_eq!(state.standing(&unmarked).unwrap(), Standing::Nothing);
    // A root is marked when something is recorded: the records are lost.
    assert_eq!(state.standing(&here).unwrap(), Standing::Damaged);
    // A first boot that was cut off.
    state.prepare(&sample(1, "root"), &flists(&["b"]), b"").unwrap();
    assert_eq!(state.standing(&here).unwrap(), Standing::Nothing);
    state.forget(1).unwrap();
    for number in 1..=4 {
        assert_eq!(state.next_number().unwrap(), number);
        commit(&state, &sample(number, "root"));
    }
    assert_eq!(state.standing(&here).unwrap().generation(), Some(sample(4, "root")));
    assert_eq!(state.flists(&sample(3, "root")).unwrap(), Some(flists(&["b"])));
    state.forget(3).unwrap();
    state.forget(3).unwrap();
    assert_eq!((state.numbers().unwrap(), state.flists(&sample(3, "root")).unwrap()), (vec![1, 2, 4], None));
    assert_eq!(state.standing(&sample(1, "another").root).unwrap(), Standing::Nothing);
    assert_eq!(state.standing(&unmarked).unwrap(), Standing::Nothing);
}

#[test]
fn what_could_not_be_read_again_is_not_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    let info = |length| Generation { info: "x".repeat(length), ..sample(1, "root") };
    let around = serde_json::to_vec(&info(0)).unwrap().len();
    let of = |length| {
        let flist = |flist| ReleaseFlist { bytes: vec![1; length], ..flist };
        flists(&["b"]).into_iter().map(flist).collect::<Vec<_>>()
    };
    let recorded = || std::fs::metadata(dir.path().join("generations/1.fl")).map(|file| file.len()).ok();
    let both = [of(MAX_MANIFEST + 1), of(1)].concat();
    for (generation, flists) in
        [(info(0), of(MAX_MANIFEST + 1)), (info(0), both), (info(MAX_MANIFEST - around + 1), of(1))]
    {
        let refused = state.prepare(&generation, &flists, b"");
        assert!(matches!(refused, Err(GenerationError::TooLarge { number: 1, .. })), "{refused:?}");
        assert_eq!((state.numbers().unwrap(), recorded()), (vec![], None));
    }
    state.prepare(&info(MAX_MANIFEST - around), &of(MAX_MANIFEST), b"").unwrap();
    assert!(state.recorded(1).unwrap().is_some());
    assert_eq!(recorded(), Some(MAX_MANIFEST as u64));
}

#[test]
fn every_flist_of_a_release_is_recorded_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    let several = flists(&["net", "zos"]);
    let first = sample(1, "root");
    let channel: Channel = "a/production".parse().unwrap();
    let what = (channel, first.version.clone(), first.release, &several[..]);
    let made = generation(12, Cause::Release, what, first.root.clone(), String::new(), Items::new());
    commit(&state, &first);
    state.prepare(&made, &several, b"as one").unwrap();
    let recorded = state.recorded(12).unwrap().unwrap();
    assert_eq!(recorded, made);
    assert_eq!(state.flists(&recorded).unwrap(), Some(several));
    // What a version reads that knows of one flist only.
    assert_eq!(std::fs::read(dir.path().join("generations/12.fl")).unwrap(), b"as one");
    std::fs::write(dir.path().join("generations/12.1.fl"), "another").unwrap();
    assert_eq!(state.flists(&recorded).unwrap(), None);
    state.forget(12).unwrap();
    let mut left: Vec<_> = std::fs::read_dir(dir.path().join("generations"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["1.fl", "1.json"]);
}

#[test]
fn what_an_earlier_version_recorded_of_its_only_flist_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    commit(&state, &sample(1, "root"));
    let path = dir.path().join("generations/1.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("flists").unwrap();
    std::fs::write(&path, record.to_string()).unwrap();
    let recorded = state.recorded(1).unwrap().unwrap();
    let [only] = &state.flists(&recorded).unwrap().unwrap()[..] else { panic!("several") };
    assert_eq!((only.package.as_str(), only.location.to_string()), ("b", "a/b:v1.0.0.flist".to_owned()));
    assert_eq!(only.bytes, b"b");
}

#[test]
fn what_a_newer_version_wrote_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    commit(&state, &sample(1, "root"));
    let path = dir.path().join("generations/1.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let newer = text.replacen("\"release\"", "\"by-magic\"", 1).replacen('{', "{\"colour\":[1,{}],", 1);
    assert_ne!(newer.len(), text.len());
    std::fs::write(&path, newer).unwrap();
    assert!(state.standing(&sample(1, "root").root).unwrap().generation().is_some());
}

#[test]
fn a_damaged_state_is_told_apart_from_none() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    commit(&state, &sample(1, "root"));
    let here = sample(1, "root").root;
    for file in ["current", "generations/1.json"] {
        let path = dir.path().join(file);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(state.standing(&here).unwrap(), Standing::Damaged, "{file} cut to {length} bytes");
        }
        std::fs::write(&path, &whole).unwrap();
    }
    assert!(state.standing(&here).unwrap().generation().is_some());
}
