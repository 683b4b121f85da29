"""Text-to-image: diffusers' SD3, FLUX, SD 1.5 and SDXL as policies over denoising steps."""
