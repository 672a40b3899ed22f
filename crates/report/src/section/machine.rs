use trellect_tune::bench::{BenchRun, Cache, Ceiling};

use super::{Block, Column, Section, Table, optional};
use crate::data::{Data, Named};
use crate::words;

/// Where everything was measured, and what the machines could do at most.
pub(crate) fn section(data: &Data) -> Option<Section> {
    let mut blocks: Vec<Block> = data.benches.iter().map(bench).collect();
    blocks.extend(others(data));
    let intro = "Read bandwidth is measured beside every cell, on the kernels' own pages; peaks are those of a \
                 bare loop over registers.";
    let section = Section { id: "machine", title: "Machine and limits", intro, blocks };
    (!section.blocks.is_empty()).then_some(section)
}

fn bench(bench: &Named<BenchRun>) -> Block {
    let BenchRun { machine, method, recorded_unix_s, interrupted, .. } = &bench.data;
    let mut rows = vec![
        ("device", format!("{}, {}", machine.device, machine.system)),
        ("processors", machine.processors.to_string()),
        ("memory", words::bytes(machine.memory_bytes)),
    ];
    let caches = machine.caches.iter().filter(|cache| cache.kind != "instruction").map(cache);
    let caches = caches.collect::<Vec<_>>().join(", ");
    rows.push(("caches", if caches.is_empty() { "unknown".into() } else { caches }));
    rows.extend(machine.huge_pages.iter().map(|mode| ("huge pages", mode.clone())));
    rows.extend(machine.facts.iter().map(|(name, value)| (name.as_str(), value.clone())));
    rows.push((
        "weights",
        match method.cold_bytes {
            0 => "warm".into(),
            bytes => format!("cold: {} of others between two uses", words::bytes(bytes)),
        },
    ));
    rows.push(("picks by", format!("policy {}", method.policy)));
    rows.extend(words::day(*recorded_unix_s).map(|day| ("recorded", day)));
    if *interrupted {
        rows.push(("complete", "no: it ended before all workloads were measured".into()));
    }
    let facts = Table {
        caption: String::new(),
        columns: vec![Column::Left(""), Column::Left("")],
        rows: rows.into_iter().map(|(name, value)| vec![name.into(), value]).collect(),
        is_folded: false,
    };
    let limits = Table {
        caption: "What the machine delivers".into(),
        columns: vec![
            Column::Right("threads"),
            Column::Right("read GB/s"),
            Column::Right("before"),
            Column::Right("after"),
            Column::Right("float32 GFLOP/s"),
            Column::Right("int8 Gop/s"),
        ],
        rows: machine.ceilings.iter().map(ceiling).collect(),
        is_folded: false,
    };
    let tables = match limits.rows.is_empty() {
        true => vec![facts],
        false => vec![facts, limits],
    };
    Block { heading: bench.name.clone(), tables, ..Block::default() }
}

fn cache(cache: &Cache) -> String {
    format!(
        "L{} {} {} (shared by {})",
        cache.level,
        words::bytes(cache.bytes),
        cache.kind,
        cache.processors
    )
}

fn ceiling(ceiling: &Ceiling) -> Vec<String> {
    let peak = |peak: Option<f64>| optional(peak, |peak| format!("{peak:.0}"));
    vec![
        ceiling.threads.to_string(),
        format!("{:.1}", ceiling.read_gb_per_s),
        format!("{:.1}", ceiling.read_gb_per_s_before),
        format!("{:.1}", ceiling.read_gb_per_s_after),
        peak(ceiling.fp32_fma_gflop_per_s),
        peak(ceiling.int8_dot_gop_per_s),
    ]
}

/// The machines of matrices and histories.
fn others(data: &Data) -> Option<Block> {
    let matrices = data.matrices.iter().map(|matrix| {
        let machine = &matrix.data.machine;
        let facts = machine.facts.iter().filter(|(name, _)| name != "kernel code");
        let facts = facts.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>();
        let day = optional(words::day(matrix.data.recorded_unix_s), |day| day);
        vec![matrix.name.clone(), machine.device.clone(), day, facts.join("; ")]
    });
    let environments = data.histories.iter().flat_map(|history| {
        history.data.iter().map(|environment| {
            let fields = environment.summary.fingerprint.iter().flat_map(|print| &print.hard);
            let fields = fields.filter(|(name, _)| {
                !["device", "kernel code", "kernels", "schema", "backend"].contains(&name.as_str())
            });
            let fields = fields.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>();
            let device = environment.field("device").unwrap_or("unknown").to_owned();
            let day = optional(words::day(environment.summary.last_unix_s), |day| day);
            vec![history.name.clone(), device, day, fields.join("; ")]
        })
    });
    let rows: Vec<Vec<String>> = matrices.chain(environments).collect();
    let columns = ["from", "device", "recorded", "facts"].map(Column::Left).to_vec();
    let table = Table { caption: String::new(), columns, rows, is_folded: false };
    let heading = if data.benches.is_empty() { String::new() } else { "Other files".into() };
    (!table.rows.is_empty()).then(|| Block { heading, tables: vec![table], ..Block::default() })
}
