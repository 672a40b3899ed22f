//! What a fuzz target does with its bytes; a test of `trellect-exl3` replays the corpus through it.

use trellect_core::{Hidden, LayerView};
use trellect_exl3::{Checkpoint, ModelConfig, RouterConfig};

/// Reads `data` as a file of tensors, with every layer in it, and as a `config.json`.
pub(crate) fn checkpoint(data: &[u8]) {
    if let Ok(checkpoint) = Checkpoint::from_bytes(data.to_vec(), None) {
        for info in checkpoint.layers() {
            let Ok(layer) = checkpoint.layer(info.number()) else { continue };
            [Some(layer.view()), layer.shared_expert()].into_iter().flatten().for_each(read);
            layer.release_expert(0);
            if let Some(router) = layer.router() {
                let token = vec![1.0; router.hidden_size()];
                let routing = router.route(&RouterConfig::softmax(1), Hidden::F32(&token));
                // f16 logits may overflow, which is an error; what is routed has one expert a token.
                assert!(routing.is_err() || routing.is_ok_and(|routing| routing.num_pairs() == 1));
            }
        }
    }
    if let Ok(model) = std::str::from_utf8(data)
        .map_err(drop)
        .and_then(|text| ModelConfig::from_json(text).map_err(drop))
    {
        for bias in [None, Some(&[0.5; 8][..])] {
            if let Ok(config) = RouterConfig::from_model(&model, bias.is_some())
                && let Ok(routing) = config.route(&[0.25; 16], bias, 8)
            {
                assert_eq!(routing.num_tokens(), 2);
            }
        }
    }
}

/// Reaches the ends of every tensor, and checks what a validated layer promises.
fn read(layer: &LayerView<'_>) {
    for expert in layer.experts() {
        for linear in [expert.gate, expert.up, expert.down] {
            let last_tile =
                linear.tile(linear.in_features() / 16 - 1, linear.out_features() / 16 - 1);
            assert_eq!(last_tile.len(), linear.tile_bytes());
            let vectors = [Some(linear.suh()), Some(linear.svh()), linear.bias()];
            assert!(vectors.iter().flatten().flat_map(|v| v.iter()).all(f32::is_finite));
        }
    }
}
