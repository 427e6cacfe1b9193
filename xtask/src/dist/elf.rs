//! Checks that a program is static.

use std::path::Path;

use anyhow::{Context, ensure};

/// `PT_INTERP` of elf(5): names the dynamic linker.
const INTERPRETER: u32 = 3;

/// Fails for a program that asks for a dynamic linker.
pub(super) fn check_static(path: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let kinds = segments(&bytes).with_context(|| format!("{} is not a 64-bit program", path.display()))?;
    ensure!(!kinds.contains(&INTERPRETER), "{} is not static", path.display());
    Ok(())
}

/// The kinds of the program headers of a little-endian 64-bit ELF file.
fn segments(bytes: &[u8]) -> Option<Vec<u32>> {
    let number = |at: usize, length: usize| -> Option<usize> {
        let part = bytes.get(at..at + length)?;
        part.iter().rev().try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))
    };
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    (0..count).map(|n| u32::try_from(number(table + n * size, 4)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_asks_for_a_linker_is_told_from_one_that_does_not() {
        let mut file = vec![0; 0x40 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[0x20] = 0x40;
        file[0x36] = 56;
        file[0x38] = 1;
        file[0x40] = 1;
        assert_eq!(segments(&file), Some(vec![1]));
        file[0x40] = 3;
        assert_eq!(segments(&file), Some(vec![INTERPRETER]));
        assert_eq!(segments(b"#!/bin/sh"), None);
    }
}
