"""`bfsr-edge export`."""

from __future__ import annotations

import click


@click.command(name="export", short_help="Turn a checkpoint into a checked ONNX file.")
@click.option("--model", default="edge", show_default=True, metavar="NAME|FILE", help="A shipped name or a checkpoint.")
@click.option("--out", metavar="FILE", help="The .onnx to write.  [default: MODEL.onnx in this folder]")
@click.option("--tile", type=click.IntRange(1), default=128, show_default=True, help="Side of the input in pixels.")
@click.option("--fp16-weights", is_flag=True, help="Half the size: weights stored as fp16, arithmetic stays fp32.")
@click.option("--name", help="What the file says it is called.  [default: the model's name]")
@click.option(
    "--interpolate",
    metavar="NAME|FILE",
    help="Weights between the model's and this one's, of the same architecture; --out may be .safetensors then.",
)
@click.option("--alpha", type=click.FloatRange(0, 1), help="How far towards --interpolate: 0 the model, 1 the other.")
def command(
    model: str,
    out: str | None,
    tile: int,
    fp16_weights: bool,
    name: str | None,
    interpolate: str | None,
    alpha: float | None,
) -> None:
    """Turn a checkpoint into ONNX, and compare it with torch in OpenVINO and ONNX Runtime before it gets its name.

    --interpolate is network interpolation (Wang et al. 2018, ESRGAN): between a PSNR network and the GAN that was
    trained from it, a small --alpha adds texture for few artefacts.

    \b
    Examples:
        bfsr-edge export --model runs/edge/best.safetensors --out edge.onnx --fp16-weights
        bfsr-edge export --model psnr.safetensors --interpolate gan.safetensors --alpha 0.2 --out mixed.onnx
    """
    from bfsr_edge.export import MAX_ERROR, export

    done = export(model, out, tile=tile, fp16_weights=fp16_weights, name=name, interpolate=interpolate, alpha=alpha)
    height, width = done.tile
    errors = ", ".join(f"{error:.2g}/255 in {backend}" for backend, error in done.errors.items())
    click.echo(f"{done.architecture}: {done.parameters:,} parameters, {done.gmacs:.2f} GMAC at {width}×{height}")
    if errors:
        click.echo(f"maximum error against torch: {errors} (limit {MAX_ERROR}/255)")
    if done.rounding is not None:
        click.echo(f"fp16 weights change the result by at most {done.rounding:.2g}/255")
    click.echo(f"wrote {done.path}: {done.size / 1e6:.2f} MB, sha256 {done.sha256}")
