//! Compressed logs: damage ends in a notice, and what is compressed shows as what is not.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use portreeve::report::show::Format;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::show;

pub fn run(data: &[u8]) {
    if matches!(data, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) {
        return show::run(data);
    }
    let plain = show::printed(data, Format::Json);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(data).unwrap();
    assert!(show::printed(&gzip.finish().unwrap(), Format::Json) == plain, "gzip");
    let zstd = compress_to_vec(data, CompressionLevel::Fastest);
    assert!(show::printed(&zstd, Format::Json) == plain, "zstd");
}
