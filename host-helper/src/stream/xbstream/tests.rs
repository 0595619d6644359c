use super::*;
use proptest::prelude::*;

type Write = fn(&mut Writer<Vec<u8>>) -> std::io::Result<()>;

fn stream(write: &[Write]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for step in write {
        step(&mut writer).unwrap();
    }
    writer.into_inner()
}

/// Parses, checks and follows a whole stream.
fn read(bytes: &[u8]) -> Result<Vec<(String, u64)>, Malformed> {
    let mut tracker = Tracker::new(4);
    for chunk in Chunks::new(bytes) {
        let chunk = chunk?;
        chunk.check_crc()?;
        tracker.chunk(&chunk)?;
    }
    Ok(tracker.finish()?.0.into_iter().map(|f| (f.path, f.bytes)).collect())
}

const A0: Write = |w| w.payload("d/a", 0, b"aaaa");
const A4: Write = |w| w.payload("d/a", 4, b"bb");
const AE: Write = |w| w.end("d/a");
const B0: Write = |w| w.payload("b", 0, b"b");
const BE: Write = |w| w.end("b");

/// What a case shows, the chunks, and the files with their sizes.
type Leaves<'a> = (&'a str, &'a [Write], &'a [(&'a str, u64)]);

#[test]
fn what_a_stream_leaves_behind() {
    let cases: &[Leaves<'_>] = &[
        ("files interleave", &[A0, B0, A4, BE, AE], &[("d/a", 6), ("b", 1)]),
        ("an empty file has an end only", &[AE], &[("d/a", 0)]),
        ("holes count", &[|w| w.sparse("d/a", 0, &[(100, 4), (50, 2)], b"aaaabb"), AE], &[("d/a", 156)]),
        ("a hole may be last", &[A0, |w| w.sparse("d/a", 4, &[(16, 0)], b""), AE], &[("d/a", 20)]),
        ("a second version replaces", &[A0, AE, |w| w.rewrite("d/a", 0, b"x"), AE], &[("d/a", 1)]),
        ("a removed file is gone", &[A0, AE, B0, BE, |w| w.remove("d/a")], &[("b", 1)]),
        ("a removed file may come again", &[A0, AE, |w| w.remove("d/a"), B0, BE, AE], &[("b", 1), ("d/a", 0)]),
        ("a renamed file", &[A0, AE, |w| w.rename("d/a", "d/c")], &[("d/c", 4)]),
        ("a renamed file replaces", &[A0, AE, B0, BE, |w| w.rename("d/a", "b")], &[("b", 4)]),
        ("a seek back overwrites", &[A0, |w| w.seek("d/a", 1), |w| w.payload("d/a", 1, b"x"), AE], &[("d/a", 4)]),
    ];
    for (what, write, expected) in cases {
        let found = read(&stream(write));
        let expected: Vec<_> = expected.iter().map(|(path, bytes)| ((*path).to_owned(), *bytes)).collect();
        assert_eq!(found, Ok(expected), "{what}");
    }
}

#[test]
fn what_no_tool_writes_is_refused_by_name() {
    let cases: &[(&[Write], &str)] = &[
        (&[], "the stream was cut: it holds no file"),
        (&[A0], "the stream was cut: 1 files have no end, d/a among them"),
        (&[A0, A0, AE], "d/a: a chunk is for offset 0, its file is at 4"),
        (&[A4, AE], "d/a: a chunk is for offset 4, its file is at 0"),
        (&[A0, AE, A4, AE], "d/a: it goes on after its end"),
        (&[A0, AE, AE], "d/a: it goes on after its end"),
        (&[|w| w.remove("d/a")], "d/a: it is removed or renamed, but was never streamed"),
        (&[A0, |w| w.remove("d/a")], "d/a: it is removed or renamed while open"),
        (&[A0, AE, B0, |w| w.rename("d/a", "b")], "d/a: it is renamed to b, which is open"),
        (&[A0, AE, |w| w.seek("d/a", 0), B0], "d/a: it is positioned, but not open"),
        (&[|w| w.sparse("d/a", 0, &[(0, 5)], b"1234")], "d/a: impossible sparse map 5"),
        (&[|w| w.sparse("d/a", 0, &[(0, 3)], b"1234")], "d/a: impossible sparse map 1"),
        (&[|w| w.end("1"), |w| w.end("2"), |w| w.end("3"), |w| w.end("4"), |w| w.end("5")], "the stream holds more than 4 files"),
    ];
    for (write, expected) in cases {
        assert_eq!(read(&stream(write)).unwrap_err().to_string(), *expected);
    }
}

#[test]
fn hostile_headers_are_refused_before_their_body_is_waited_for() {
    for path in ["/etc/passwd", "../x", "a/../../x", "a//b", "a\0b", "", &"x".repeat(512)] {
        let bytes = stream_of(|w| w.payload(path, 0, b"x"));
        assert!(matches!(Header::parse(&bytes), Err(Malformed::Path(_))), "{path}");
        let bytes = stream_of(|w| w.rename("ok", path));
        assert!(matches!(Header::parse(&bytes), Err(Malformed::Path(_))), "to {path}");
    }
    let whole = stream(&[A0]);
    let with = |at: usize, field: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + field.len()].copy_from_slice(field);
        Header::parse(&bytes[..40.min(bytes.len())]).map(|_| ())
    };
    assert_eq!(with(0, b"X"), Ok(()));
    assert_eq!(with(0, b"Y"), Err(Malformed::Magic));
    assert_eq!(with(9, b"?"), Err(Malformed::Type(b'?')));
    assert_eq!(with(8, &[FLAG_IGNORABLE, b'?']), Ok(()));
    assert!(matches!(with(10, &u32::MAX.to_le_bytes()), Err(Malformed::Path(_))));
    assert!(matches!(with(17, &u64::MAX.to_le_bytes()), Err(Malformed::Bounds { what: "payload length", .. })));
    assert!(matches!(with(25, &u64::MAX.to_le_bytes()), Err(Malformed::Bounds { what: "offset", .. })));
}

fn stream_of(write: impl FnOnce(&mut Writer<Vec<u8>>) -> std::io::Result<()>) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    write(&mut writer).unwrap();
    writer.into_inner()
}

#[test]
fn a_cut_anywhere_is_noticed() {
    let whole = stream(&[A0, B0, A4, BE, |w| w.sparse("s", 0, &[(7, 1)], b"s"), |w| w.end("s"), AE]);
    assert!(read(&whole).is_ok());
    for cut in 0..whole.len() {
        match read(&whole[..cut]) {
            Err(Malformed::Cut(_)) => {}
            // Eight bytes behind the path a sparse chunk looks like a seek that ends the stream: of a file that is not open.
            Err(Malformed::Order { .. }) if whole[..cut - 8].ends_with(b"S\x01\0\0\0s") => {}
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
}

#[test]
fn a_flipped_payload_bit_is_noticed() {
    let whole = stream(&[A0, AE]);
    for at in 37..41 {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        assert!(matches!(read(&bytes), Err(Malformed::Crc { .. })), "byte {at}");
    }
}

#[test]
fn only_chunks_that_do_not_commute_are_ordered() {
    let ordered = |write: Write| Header::parse(&stream(&[write])).unwrap().unwrap().is_ordered();
    for write in [A0, A4, AE, |w| w.sparse("s", 0, &[(1, 1)], b"x"), |w| w.rewrite("a", 5, b"x")] as [Write; 5] {
        assert!(!ordered(write));
    }
    for write in [|w| w.rewrite("a", 0, b"x"), |w| w.remove("a"), |w| w.rename("a", "b")] as [Write; 3] {
        assert!(ordered(write));
    }
    // Alone, and followed by a chunk, which tells it from a sparse one.
    let seek = stream(&[|w| w.seek("a", 5), AE]);
    let alone = &seek[..14 + 1 + 8];
    assert_eq!(Header::parse(alone), Ok(None));
    for header in [Header::parse(&seek).unwrap().unwrap(), Header::parse_whole(alone).unwrap()] {
        assert_eq!((header.op, header.len, header.is_ordered()), (Op::Seek { offset: 5 }, alone.len(), true));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }

    #[test]
    fn damaged_streams_never_panic_and_their_parser_needs_no_more_than_a_header(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = stream(&[A0, |w| w.seek("d/a", 2), A4, |w| w.sparse("s", 0, &[(7, 1)], b"s"), |w| w.rename("s", "t"), AE]);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = read(&bytes);
        bytes.resize(bytes.len().max(HEADER_LIMIT), 0);
        prop_assert!(!matches!(Header::parse(&bytes), Ok(None)), "a header longer than HEADER_LIMIT");
    }
}
