//! Rows of a Parquet file as JSON Lines, a batch at a time: a file of any size in bounded memory.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow_json::writer::{LineDelimited, Writer, WriterBuilder};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData};
use parquet::file::reader::{ChunkReader, Length};

use crate::base::Outcome;

/// What a batch of rows should come to, uncompressed.
const BATCH_BYTES: i64 = 4 << 20;
const MAX_BATCH_ROWS: i64 = 1024;

/// Reads at offsets, and never more than the file holds, whatever its headers claim.
struct Input {
    file: Arc<File>,
    size: u64,
}

struct InputReader {
    file: Arc<File>,
    at: u64,
}

impl Read for InputReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Length for Input {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Input {
    type T = BufReader<InputReader>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(InputReader {
            file: self.file.clone(),
            at: start,
        }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start > self.size || length as u64 > self.size - start {
            return Err(ParquetError::EOF("the file ends before its data do".into()));
        }
        let mut buffer = vec![0; length];
        self.file.read_exact_at(&mut buffer, start)?;
        Ok(buffer.into())
    }
}

pub struct ParquetRows {
    batches: ParquetRecordBatchReader,
    num_rows: i64,
}

impl ParquetRows {
    pub fn open(path: &str) -> Outcome<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        check_magic(&file, size)?;
        let input = Input {
            file: Arc::new(file),
            size,
        };
        // The types that Parquet itself knows; a writer's own Arrow schema may claim others.
        let options = ArrowReaderOptions::new()
            .with_skip_arrow_metadata(true)
            .with_page_index_policy(PageIndexPolicy::Skip);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(input, options)?;
        let num_rows = check(builder.metadata(), size)?;
        let batch_rows = batch_rows(builder.metadata(), num_rows);
        Ok(ParquetRows {
            batches: builder.with_batch_size(batch_rows).build()?,
            num_rows,
        })
    }

    pub fn num_rows(&self) -> i64 {
        self.num_rows
    }

    /// The next rows, a line each; empty at the end. Nulls are written out.
    pub fn next(&mut self) -> Outcome<String> {
        let Some(batch) = self.batches.next() else {
            return Ok(String::new());
        };
        let mut writer: Writer<Vec<u8>, LineDelimited> =
            WriterBuilder::new().with_explicit_nulls(true).build(Vec::new());
        writer.write(&batch?)?;
        writer.finish()?;
        Ok(String::from_utf8(writer.into_inner())?)
    }
}

fn check_magic(file: &File, size: u64) -> Outcome<()> {
    let mut start = [0; 4];
    let mut end = [0; 4];
    if size >= 12 {
        file.read_exact_at(&mut start, 0)?;
        file.read_exact_at(&mut end, size - 4)?;
    }
    match (&start, &end) {
        (b"PAR1", b"PAR1") => Ok(()),
        (b"PAR1", b"PARE") | (b"PARE", _) => Err("the file is encrypted, which can't be read".into()),
        (b"PAR1", _) => Err("the file is cut short: its end, which says what is in it, is missing".into()),
        _ => Err("not a Parquet file (it does not begin with PAR1)".into()),
    }
}

/// The number of rows. Fails unless all columns lie in the file and can be decompressed.
fn check(metadata: &ParquetMetaData, size: u64) -> Outcome<i64> {
    let mut num_rows: i64 = 0;
    for (index, group) in metadata.row_groups().iter().enumerate() {
        for column in group.columns() {
            check_column(column, size)
                .map_err(|why| format!("column {} of row group {index}: {why}", column.column_path()))?;
        }
        let rows = u32::try_from(group.num_rows()).map_err(|_| {
            format!(
                "row group {index} claims {} rows: the file is damaged",
                group.num_rows()
            )
        })?;
        num_rows += i64::from(rows);
    }
    Ok(num_rows)
}

fn check_column(column: &ColumnChunkMetaData, size: u64) -> Result<(), String> {
    match column.compression() {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) | Compression::ZSTD(_) => {}
        other => {
            let name = format!("{other:?}");
            let name = name.split('(').next().unwrap_or_default();
            return Err(format!(
                "compressed with {name}; only snappy, gzip and zstd are read: write the file with one of them"
            ));
        }
    }
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let start = start.min(column.data_page_offset());
    let bounds = (u64::try_from(start), u64::try_from(column.compressed_size()));
    match bounds {
        (Ok(start), Ok(length)) if start <= size && length <= size - start => Ok(()),
        _ => Err("its data lie beyond the end of the file: it is cut short or damaged".into()),
    }
}

fn batch_rows(metadata: &ParquetMetaData, num_rows: i64) -> usize {
    let bytes: i64 = metadata
        .row_groups()
        .iter()
        .fold(0, |sum, group| sum.saturating_add(group.total_byte_size().max(0)));
    let row_bytes = (bytes / num_rows.max(1)).max(1);
    (BATCH_BYTES / row_bytes).clamp(1, MAX_BATCH_ROWS) as usize
}
