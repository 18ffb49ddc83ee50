"""Matrices in the files of other programs: AnnData, HDF5, Zarr, MATLAB."""
