//! What a profile may not do to us, and that what is written is what is read.

use std::io::Write;

use prost::Message;

use super::{Builder, Profile, Series, proto};

fn kinds() -> proto::Profile {
    let kind = proto::ValueType { kind: 1, unit: 2 };
    let string_table = ["", "goroutine", "count", "main.f", "f.go"].map(|s| s.as_bytes().to_vec()).to_vec();
    proto::Profile { sample_type: vec![kind], string_table, ..Default::default() }
}

/// One sample of one function.
fn small() -> proto::Profile {
    proto::Profile {
        sample: vec![proto::Sample { location_id: vec![7], value: vec![3], label: vec![] }],
        location: vec![proto::Location {
            id: 7,
            line: vec![proto::Line { function_id: 1 << 60, line: 12 }],
            ..Default::default()
        }],
        function: vec![proto::Function { id: 1 << 60, name: 3, filename: 4, ..Default::default() }],
        ..kinds()
    }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(data).and_then(|()| packer.finish()).expect("packs")
}

fn refused(p: &proto::Profile, why: &str) {
    let said = Profile::of_bytes(&p.encode_to_vec()).expect_err(why);
    assert!(said.contains(why), "{said:?} for {why:?}");
}

#[test]
fn what_is_written_is_read() {
    let mut b = Builder::new("goroutine", "count");
    let inner = ("main.f", "f.go", 12);
    b.sample([inner, ("main.main", "f.go", 3)].into_iter(), 5, [("tenant", "blue")].into_iter());
    b.sample([inner].into_iter(), -2, std::iter::empty());
    let p = b.finish(Some(17));
    for bytes in [p.encode(), gzip(&p.encode())] {
        let q = Profile::of_bytes(&bytes).expect("a profile");
        assert_eq!((q.time_ns, q.period, q.functions.len(), q.locations.len()), (Some(17), 1, 2, 2));
        let samples: Vec<_> = q.samples().map(|s| (s.stack.to_vec(), s.values.to_vec(), s.labels.len())).collect();
        assert_eq!(samples, [(vec![0, 1], vec![5], 1), (vec![0], vec![-2], 0)]);
        assert_eq!(q.encode(), p.encode());
    }
}

#[test]
fn damage_is_named() {
    assert_eq!(Profile::of_bytes(&small().encode_to_vec()).map(|p| p.len()), Ok(1));
    refused(&proto::Profile { sample_type: vec![], ..small() }, "does not say what its values are");
    refused(&proto::Profile { string_table: vec![], ..small() }, "has no texts");
    refused(&proto::Profile { string_table: vec![b"x".to_vec()], ..small() }, "not the empty one");
    refused(&proto::Profile { location: vec![], ..small() }, "location 7 is named but not there");
    refused(&proto::Profile { function: vec![], ..small() }, "function 1152921504606846976 is named but not there");
    let mut p = small();
    p.location.push(p.location[0].clone());
    refused(&p, "location 7 is there twice");
    let mut p = small();
    p.function[0].name = 5;
    refused(&p, "text 5 of 5");
    p.function[0].name = -1;
    refused(&p, "text -1 of 5");
    let mut p = small();
    p.sample[0].value.push(1);
    refused(&p, "2 values where 1 types");
    p.sample.push(small().sample[0].clone());
    refused(&p, "1 values among samples of 2");
    let mut p = small();
    p.location[0].mapping_id = 9;
    refused(&p, "mapping 9 is named");
    // Two profiles in one file.
    let twice = proto::Profile { time_nanos: 5, ..small() }.encode_to_vec().repeat(2);
    assert!(Profile::of_bytes(&twice).is_err_and(|e| e.contains("1 values where 2 types are named")));
    let whole = small().encode_to_vec();
    assert!((1..whole.len()).all(|n| Profile::of_bytes(&whole[..n]).is_err()));
}

/// What unpacks to far more than it is, and what names one thing very often.
#[test]
fn bombs_are_refused() {
    // Empty texts, two bytes each.
    let texts = gzip(&[0x32, 0].repeat(20 << 20));
    let said = Profile::of_bytes(&texts).expect_err("a bomb");
    assert!(said.contains("more parts than any profile has"), "{said}");
    // Comments, which are skipped.
    let said = Profile::of_bytes(&gzip(&[0x68, 0].repeat(20 << 20))).expect_err("a bomb");
    assert!(said.contains("unpacks to more than 16.0 MiB"), "{said}");
    // A part that claims 2^60 bytes, and one of 5 MiB.
    let said = Profile::of_bytes(&[0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]).expect_err("too long");
    assert!(said.contains("more than 4 MiB"), "{said}");
    // Stacks that name a location of 10,000 inlined lines 10,000 times.
    let mut p = small();
    let line = p.location[0].line[0];
    p.location[0].line = (0..10_000).map(|i| proto::Line { line: i, ..line }).collect();
    p.sample[0].location_id = vec![7; 10_000];
    let p = Profile::of_bytes(&p.encode_to_vec()).expect("small as a file");
    assert!(Series::new(&[p]).is_err());
}
