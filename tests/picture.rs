//! Reads the text on a picture of the hypervisor's screen: a grid of characters, drawn with one font in a few colours.
//! What is on the picture is compared pixel by pixel with what would have been drawn.

use anyhow::{Context, Result, ensure};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

/// The size of a character.
const HEIGHT: usize = 16;
const WIDTH: usize = get_raster_width(FontWeight::Regular, RasterHeight::Size16);

/// The colours of text: usual, dim, warnings, errors.
const COLOURS: [[u32; 3]; 4] = [
    [230, 230, 230],
    [140, 140, 140],
    [255, 210, 80],
    [255, 110, 100],
];

/// A picture.
struct Picture<'a> {
    width: usize,
    height: usize,
    /// Red, green and blue of each pixel.
    pixels: &'a [u8],
}

impl<'a> Picture<'a> {
    /// Reads a PPM file with 8 bits for each colour.
    fn parse(file: &'a [u8]) -> Result<Self> {
        let mut rest = file;
        let mut word = || {
            let end = rest.iter().position(u8::is_ascii_whitespace)?;
            let (word, behind) = rest.split_at(end);
            rest = behind.get(1..)?;
            std::str::from_utf8(word).ok()
        };
        ensure!(word() == Some("P6"), "this is no PPM file");
        let mut number = || word()?.parse().ok();
        let (width, height) = number().zip(number()).context("the picture has no size")?;
        ensure!(number() == Some(255), "the picture has other colours");
        ensure!(rest.len() >= width * height * 3, "the picture is cut short");
        Ok(Self {
            width,
            height,
            pixels: rest,
        })
    }

    fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * 3;
        [0, 1, 2].map(|channel| self.pixels[at + channel])
    }

    /// The character that is drawn here, or a replacement character where it is none.
    fn character(&self, x: usize, y: usize) -> char {
        let looks_like = |character: char, colour: [u32; 3]| {
            let Some(raster) = get_raster(character, FontWeight::Regular, RasterHeight::Size16)
            else {
                return false;
            };
            raster.rows().enumerate().all(|(row, line)| {
                line.iter().enumerate().all(|(column, level)| {
                    let drawn = colour.map(|full| ((full * u32::from(*level)) >> 8) as u8);
                    self.pixel(x + column, y + row) == drawn
                })
            })
        };
        let mut characters =
            (' '..='~').flat_map(|character| COLOURS.map(|colour| (character, colour)));
        characters
            .find(|(character, colour)| looks_like(*character, *colour))
            .map_or(char::REPLACEMENT_CHARACTER, |(character, _)| character)
    }
}

/// The lines of text on a picture in a PPM file.
pub(crate) fn text(file: &[u8]) -> Result<Vec<String>> {
    let picture = Picture::parse(file)?;
    let (columns, rows) = (picture.width / WIDTH, picture.height / HEIGHT);
    ensure!(rows > 0 && columns > 0, "the picture is too small for text");
    Ok((0..rows)
        .map(|row| {
            (0..columns)
                .map(|column| picture.character(column * WIDTH, row * HEIGHT))
                .collect()
        })
        .collect())
}
