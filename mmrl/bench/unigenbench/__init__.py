"""UniGenBench (arXiv 2508.20751, 2510.18701): test points of a picture, judged by a vision-language model."""
