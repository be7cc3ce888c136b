//! What `dist/handler` says of itself to the kernel that loads it: it runs as root and reads what others have written, so nothing in it
//! may lie at a known address, be written after the start where that is not its purpose, or be written and executed.
#![cfg(feature = "static")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)] // a test stops at the first surprise

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

// Of <elf.h>, for 64 bits.
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PT_GNU_RELRO: u32 = 0x6474_e552;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const DT_NEEDED: u64 = 1;
const DT_TEXTREL: u64 = 22;
const DT_BIND_NOW: u64 = 24;
const DT_FLAGS: u64 = 30;
const DF_TEXTREL: u64 = 4;
const DF_BIND_NOW: u64 = 8;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_1_NOW: u64 = 1;
const DF_1_PIE: u64 = 0x0800_0000;

/// Where things stand in the file's head, in a segment's and in an entry of the dynamic section.
const E_TYPE: usize = 16;
const E_PHOFF: usize = 32;
const E_PHENTSIZE: usize = 54;
const E_PHNUM: usize = 56;
const P_FLAGS: usize = 4;
const P_OFFSET: usize = 8;
const P_VADDR: usize = 16;
const P_FILESZ: usize = 32;
const P_MEMSZ: usize = 40;

struct Elf(Vec<u8>);

impl Elf {
    /// `None` for a file that ends before that.
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn word(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn long(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    fn half(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    /// Where the headers of the segments of this kind are.
    fn segments(&self, kind: u32) -> Option<Vec<usize>> {
        let start = usize::try_from(self.long(E_PHOFF)?).ok()?;
        let (size, count) = (usize::from(self.half(E_PHENTSIZE)?), usize::from(self.half(E_PHNUM)?));
        let mut found = Vec::new();
        for at in (0..count).map(|index| start + index * size) {
            if self.word(at)? == kind {
                found.push(at);
            }
        }
        Some(found)
    }

    /// Where the entries of the dynamic section with this tag are.
    fn dynamic(&self, tag: u64) -> Option<Vec<usize>> {
        let mut found = Vec::new();
        for segment in self.segments(PT_DYNAMIC)? {
            let start = usize::try_from(self.long(segment + P_OFFSET)?).ok()?;
            let size = usize::try_from(self.long(segment + P_FILESZ)?).ok()?;
            for at in (start..start + size).step_by(16) {
                match self.long(at)? {
                    0 => break,
                    is if is == tag => found.push(at),
                    _ => {}
                }
            }
        }
        Some(found)
    }

    fn has(&self, tag: u64, flags: u64) -> Option<bool> {
        let values: Option<Vec<u64>> = self.dynamic(tag)?.iter().map(|at| self.long(at + 8)).collect();
        Some(values?.iter().any(|value| value & flags != 0))
    }

    /// `None` for what is no whole ELF file of 64 bits.
    fn complaints(&self) -> Option<Vec<&'static str>> {
        // 2: 64 bits; 1: the lowest byte first.
        if self.0.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let loaded = self.segments(PT_LOAD)?;
        let flags = |segments: &[usize]| segments.iter().map(|at| self.word(at + P_FLAGS)).collect::<Option<Vec<u32>>>();
        let stack = flags(&self.segments(PT_GNU_STACK)?)?;
        let relro = self.segments(PT_GNU_RELRO)?;
        let mut within = false;
        for table in self.segments(PT_DYNAMIC)? {
            for protected in &relro {
                let (start, size) = (self.long(protected + P_VADDR)?, self.long(protected + P_MEMSZ)?);
                within |= (start..start + size).contains(&self.long(table + P_VADDR)?);
            }
        }
        let wrong = [
            (self.half(E_TYPE)? != ET_DYN, "it lies at a fixed address"),
            (!self.has(DT_FLAGS_1, DF_1_PIE)?, "it is not marked as a program that may lie anywhere (PIE)"),
            (!self.segments(PT_INTERP)?.is_empty(), "it asks for a program that loads it: it is not static"),
            (!self.dynamic(DT_NEEDED)?.is_empty(), "it asks for libraries: it is not static"),
            (relro.len() != 1, "nothing is read-only after the start (RELRO)"),
            (!within, "the dynamic section stays writable: RELRO does not cover it"),
            (!self.has(DT_FLAGS, DF_BIND_NOW)? && self.dynamic(DT_BIND_NOW)?.is_empty(), "its tables stay writable: no BIND_NOW"),
            (!self.has(DT_FLAGS_1, DF_1_NOW)?, "its tables stay writable: no NOW"),
            // Without the header the kernel takes the stack to be executable.
            (stack.is_empty() || stack.iter().any(|flags| flags & PF_X != 0), "its stack is executable"),
            (loaded.is_empty(), "nothing is loaded"),
            (flags(&loaded)?.iter().any(|flags| flags & PF_W != 0 && flags & PF_X != 0), "a segment is writable and executable"),
            (self.has(DT_FLAGS, DF_TEXTREL)? || !self.dynamic(DT_TEXTREL)?.is_empty(), "its code is written to at the start (TEXTREL)"),
        ];
        Some(wrong.into_iter().filter(|(wrong, _)| *wrong).map(|(_, text)| text).collect())
    }
}

/// `dist/handler`, and those for other architectures that are there. Another one can be named.
fn binaries() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os("BINARY") {
        return vec![path.into()];
    }
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    let folders = std::fs::read_dir(&dist).unwrap_or_else(|error| panic!("{}: {error}: run make first", dist.display()));
    let others = folders.map(|entry| entry.unwrap().path().join("handler")).filter(|path| path.is_file());
    [dist.join("handler")].into_iter().chain(others).collect()
}

fn read(path: &Path) -> Elf {
    Elf(std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}: run make first", path.display())))
}

#[test]
fn it_is_hard_to_abuse() {
    for path in binaries() {
        let complaints = read(&path).complaints().expect("an ELF file of 64 bits");
        assert!(complaints.is_empty(), "{}: {complaints:#?}", path.display());
    }
}

/// Each property is taken from the same file, and missed.
#[test]
fn what_is_missing_is_seen() {
    let good = read(&binaries()[0]);
    let segment = |kind| good.segments(kind).unwrap()[0];
    let entry = |tag| good.dynamic(tag).unwrap()[0];
    let code = good.segments(PT_LOAD).unwrap().into_iter().find(|at| good.word(at + P_FLAGS).unwrap() & PF_X != 0).unwrap();
    let flags_1 = good.long(entry(DT_FLAGS_1) + 8).unwrap();
    let cases: [(&str, usize, &[u8]); 10] = [
        ("fixed address", E_TYPE, &2u16.to_le_bytes()),
        ("(PIE)", entry(DT_FLAGS_1) + 8, &(flags_1 & !DF_1_PIE).to_le_bytes()),
        ("program that loads it", segment(PT_GNU_RELRO), &PT_INTERP.to_le_bytes()),
        ("libraries", entry(DT_FLAGS), &DT_NEEDED.to_le_bytes()),
        ("(RELRO)", segment(PT_GNU_RELRO), &4u32.to_le_bytes()),
        ("does not cover", segment(PT_GNU_RELRO) + P_MEMSZ, &1u64.to_le_bytes()),
        ("no BIND_NOW", entry(DT_FLAGS) + 8, &0u64.to_le_bytes()),
        ("no NOW", entry(DT_FLAGS_1) + 8, &(flags_1 & !DF_1_NOW).to_le_bytes()),
        ("stack is executable", segment(PT_GNU_STACK) + P_FLAGS, &7u32.to_le_bytes()),
        ("writable and executable", code + P_FLAGS, &7u32.to_le_bytes()),
    ];
    let textrel = [
        ("TEXTREL", entry(DT_FLAGS) + 8, &(DF_BIND_NOW | DF_TEXTREL).to_le_bytes()[..]),
        ("TEXTREL", entry(DT_FLAGS), &DT_TEXTREL.to_le_bytes()[..]),
        ("stack is executable", segment(PT_GNU_STACK), &4u32.to_le_bytes()[..]),
    ];
    for (part, at, bytes) in cases.into_iter().chain(textrel) {
        let mut changed = good.0.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        let complaints = Elf(changed).complaints().unwrap();
        assert!(complaints.iter().any(|text| text.contains(part)), "{part}: {complaints:?}");
    }
    assert_eq!(Elf(good.0[..100].to_vec()).complaints(), None);
    assert_eq!(Elf(b"#!/bin/sh\n".to_vec()).complaints(), None);
}

/// Where the process has memory, whether it may write there, and whether the program's file is what stands there.
#[cfg(target_arch = "x86_64")]
fn memory(process: u32) -> Vec<(std::ops::Range<u64>, bool, bool)> {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let address = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let line = |line: &str| {
        let [from, to, rights] = *line.splitn(4, ['-', ' ']).take(3).collect::<Vec<_>>() else { panic!("{line}") };
        (address(from)..address(to), rights.contains('w'), line.ends_with("/handler"))
    };
    maps.lines().map(line).collect()
}

/// That the file asks for it is not enough: musl does not read that of a static program.
#[test]
#[cfg(target_arch = "x86_64")]
fn what_is_read_only_after_the_start_is_so() {
    let path = &binaries()[0];
    let elf = read(path);
    let relro = elf.segments(PT_GNU_RELRO).unwrap()[0];
    let (from, size) = (elf.long(relro + P_VADDR).unwrap(), elf.long(relro + P_MEMSZ).unwrap());
    let mut command = Command::new(path);
    command.env("DEPLOY_DIR", env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut handler = command.spawn().unwrap(); // waits for events
    let mut writable = None;
    for _ in 0..100 {
        sleep(Duration::from_millis(50));
        let memory = memory(handler.id());
        // It is not there yet, or starts where the first of it is.
        let Some((place, ..)) = memory.iter().find(|(.., ours)| *ours) else { continue };
        let (start, end) = (place.start + from, (place.start + from + size) / 4096 * 4096);
        writable = Some(memory.iter().filter(|(place, writable, _)| *writable && place.start < end && start < place.end).count());
        if writable == Some(0) {
            break;
        }
    }
    handler.kill().and_then(|()| handler.wait()).unwrap();
    assert_eq!(writable, Some(0), "what should be read-only is not");
}
