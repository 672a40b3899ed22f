use super::{Block, Section};
use crate::chart::{self, Chart};
use crate::data::Data;
use crate::words;

/// Recorded matrices.
pub(crate) fn section(data: &Data) -> Option<Section> {
    let mut block = Block::default();
    let mut left_out = Vec::new();
    for matrix in &data.matrices {
        if let Some((svg, hopeless)) = chart::matrix::draw(&matrix.data) {
            let device = &matrix.data.machine.device;
            block.charts.push(Chart::new(&["matrix", &matrix.data.name, device], svg));
            left_out.extend((hopeless > 0).then(|| {
                format!("{}: {} not shown", matrix.name, words::plural(hopeless, "slower kernel"))
            }));
        }
    }
    block.note = left_out.join("; ");
    let intro = "Every kernel in every context of a layer, as a multiple of the fastest; in bold where it is \
                 the fastest. Kernels that are nowhere within twice its time are left out.";
    let section =
        Section { id: "matrices", title: "Recorded matrices", intro, blocks: vec![block] };
    (!section.blocks[0].charts.is_empty()).then_some(section)
}
