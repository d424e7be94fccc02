"""The jobs of a training run: the recipe, adapting and converting a checkpoint, the drafter."""
