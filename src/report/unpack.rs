//! Logs as they lie on disk: plain, gzip, zstd, told apart by their first bytes.
//! Knows nothing of lines; names prove nothing (`.1` may be compressed, `.gz` may not).
//! Formats: RFC 1952 (several members: one stream), RFC 8878 (several frames, skippable ones among them).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Bytes that tell the formats apart.
const MAGIC_BYTES: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// Infers the format from a file's first four bytes, or fewer where it has no more.
    pub fn infer(head: &[u8]) -> Packing {
        match head {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            // A file may begin with a skippable frame: pzstd writes one before each frame.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Packing::Zstd,
            _ => Packing::Plain,
        }
    }
}

/// Reads a file from where it stands, unpacked.
///
/// # Errors
/// What reading the first bytes says.
pub(crate) fn unpack(mut file: File) -> io::Result<Box<dyn Read>> {
    let mut head = Vec::new();
    file.by_ref().take(MAGIC_BYTES).read_to_end(&mut head)?;
    let packing = Packing::infer(&head);
    let whole = Cursor::new(head).chain(file);
    Ok(match packing {
        Packing::Plain => Box::new(whole),
        Packing::Gzip => Box::new(MultiGzDecoder::new(BufReader::new(whole))),
        Packing::Zstd => Box::new(Frames::new(BufReader::new(whole))),
    })
}

/// The content of all zstd frames, one after the other.
struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
    /// What ended the frame too early, until what was decoded before has been given out.
    failure: Option<io::Error>,
}

impl<R: BufRead> Frames<R> {
    fn new(source: R) -> Frames<R> {
        Frames { source, decoder: FrameDecoder::new(), in_frame: false, failure: None }
    }

    /// Begins the next frame. `false`: the input has ended.
    fn start_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut self.source.by_ref().take(u64::from(length)), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }

    /// Decodes one block, at most 128 KiB.
    fn decode_block(&mut self) {
        // The last block, empty, with room for a checksum.
        const END_OF_FRAME: [u8; 7] = [1, 0, 0, 0, 0, 0, 0];
        let one = BlockDecodingStrategy::UptoBlocks(1);
        if let Err(error) = self.decoder.decode_blocks(&mut self.source, one) {
            let has_ended = self.source.fill_buf().is_ok_and(<[u8]>::is_empty);
            self.failure = Some(if has_ended {
                io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete zstd frame")
            } else {
                io::Error::other(error)
            });
            // The decoder keeps back a whole window, megabytes of good lines, until its frame ends: so end it.
            let _ = self.decoder.decode_blocks(END_OF_FRAME.as_slice(), BlockDecodingStrategy::All);
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame && !self.start_frame()? {
                return Ok(0);
            }
            let count = self.decoder.read(into)?;
            if count > 0 || into.is_empty() {
                return Ok(count);
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if self.decoder.is_finished() {
                self.in_frame = false;
            } else {
                self.decode_block();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, proptest};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    fn read_all(packed: &[u8]) -> (Vec<u8>, io::Result<usize>) {
        let mut content = Vec::new();
        let outcome = Frames::new(Cursor::new(packed)).read_to_end(&mut content);
        (content, outcome)
    }

    fn numbers(count: u32) -> Vec<u8> {
        (0..count).flat_map(|n| format!("{n}\n").into_bytes()).collect()
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        for (head, expected) in [
            (&b""[..], Packing::Plain),
            (b"{\"@t", Packing::Plain),
            (b"\x1f", Packing::Plain),
            (b"\x1f\x8b\x08\x00", Packing::Gzip),
            (b"\x28\xb5\x2f\xfd", Packing::Zstd),
            (b"\x50\x2a\x4d\x18", Packing::Zstd),
            (b"\x28\xb5\x2f", Packing::Plain),
        ] {
            assert_eq!(Packing::infer(head), expected, "{head:?}");
        }
    }

    #[test]
    fn frames_follow_each_other_and_skippable_ones_are_skipped() {
        let numbers = numbers(100_000);
        let (one, two) = numbers.split_at(300_000);
        let frame = |content| compress_to_vec(content, CompressionLevel::Fastest);
        let skippable = b"\x51\x2a\x4d\x18\x03\x00\x00\x00abc";
        let packed = [&skippable[..], &frame(one), skippable, &frame(&[][..]), &frame(two)].concat();
        let (content, outcome) = read_all(&packed);
        assert!(outcome.is_ok(), "{outcome:?}");
        assert!(content == numbers);
    }

    #[test]
    fn a_cut_frame_gives_all_whole_blocks_and_then_an_error() {
        let numbers = numbers(100_000);
        let packed = compress_to_vec(numbers.as_slice(), CompressionLevel::Fastest);
        let cut = packed.len() * 2 / 3;
        let (content, outcome) = read_all(packed.split_at(cut).0);
        assert!(outcome.is_err());
        assert!(numbers.starts_with(&content));
        // The encoder's blocks hold 128 KiB.
        assert!(content.len() + 128 * 1024 >= numbers.len() * 2 / 3, "{}", content.len());
    }

    proptest! {
        #[test]
        fn damage_ends_in_an_error_or_in_other_content_but_it_ends(at in any::<proptest::sample::Index>(), value: u8) {
            let content = numbers(2_000);
            let mut packed = compress_to_vec(content.as_slice(), CompressionLevel::Fastest);
            let at = at.index(packed.len());
            *packed.get_mut(at).unwrap() = value;
            let (content, _) = read_all(&packed);
            prop_assert!(content.len() <= 64 << 20);
        }
    }
}
